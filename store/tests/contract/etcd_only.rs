//! What only the etcd engine has to stand: etcd dying and coming back.
