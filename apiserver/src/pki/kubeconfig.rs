//! Kubeconfigs. In: a server's URL, whom to trust, and who one is. Out: a file for kubectl and every other client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::ClientIdentity;

/// A kubeconfig with everything in it: cluster and context are both `gantry`, the user is the identity's.
#[must_use]
pub fn kubeconfig(server_url: &str, ca_pem: &str, identity: &ClientIdentity) -> String {
    // A JSON string is a YAML string, whatever is in it.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let (server, user) = (quoted(server_url), quoted(&identity.user));
    let encoded = |pem: &str| STANDARD.encode(pem);
    let (ca, crt, key) = (encoded(ca_pem), encoded(&identity.chain_pem), encoded(&identity.key_pem));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: gantry
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    client-certificate-data: {crt}
    client-key-data: {key}
contexts:
- name: gantry
  context:
    cluster: gantry
    user: {user}
current-context: gantry
"
    )
}
