//! Removing a network link by name, in one netlink message.
//!
//! CNI makes a node's bridge and never removes it; taking a node down does.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_DELLINK: u16 = 17;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFLA_IFNAME: u16 = 3;
/// Message header and link header are 16 bytes each.
const HEADERS_LEN: usize = 32;
const ENODEV: i32 = 19;

/// Removes the link; one that does not exist is fine.
pub fn delete_link(name: &str) -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &delete_message(name), SendFlags::empty(), &kernel)?;
    let mut answer = [0u8; 512];
    let (_, len) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    match error_of(&answer[..len.min(answer.len())]) {
        Some(0 | ENODEV) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("the kernel gave an answer that is not understood")),
    }
}

fn delete_message(name: &str) -> Vec<u8> {
    let attribute_len = 4 + name.len() + 1;
    let total = HEADERS_LEN + attribute_len.next_multiple_of(4);
    let mut message = Vec::with_capacity(total);
    message.extend_from_slice(&(total as u32).to_ne_bytes());
    message.extend_from_slice(&RTM_DELLINK.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes()); // sequence number
    message.resize(HEADERS_LEN, 0); // no port id, any family and index
    message.extend_from_slice(&(attribute_len as u16).to_ne_bytes());
    message.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    message.extend_from_slice(name.as_bytes());
    message.resize(total, 0);
    message
}

/// The error number in an acknowledgement, 0 for success.
fn error_of(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(code.checked_neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_aligned_and_answers_may_be_short() {
        for name in ["a", "gantry-12345678"] {
            assert_eq!(delete_message(name).len() % 4, 0);
        }
        assert_eq!(error_of(&[0; 5]), None);
        let mut answer = vec![0; 20];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-19i32).to_ne_bytes());
        assert_eq!(error_of(&answer), Some(ENODEV));
    }
}
