use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use std::net::UdpSocket;
use std::thread::{self, JoinHandle};
use std::vec::Vec;

use super::Client;
use crate::network::deadline::Deadline;
use crate::network::dhcp::Lease;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// A server's answer to `request`: of this type, for 10.0.2.`host`.
fn answer(request: &[u8], kind: u8, host: u8) -> Vec<u8> {
    let mut message = request[..240].to_vec();
    message[0] = 2;
    message[16..20].copy_from_slice(&[10, 0, 2, host]);
    message.extend([53, 1, kind, 54, 4, 10, 0, 2, 2, 1, 4, 255, 255, 255, 0]);
    message.extend([51, 4, 0, 0, 14, 16, 255]);
    message
}

/// Runs `script`, one entry per received message: which answers to send.
fn server(script: &'static [&'static [(u8, u8)]]) -> (SocketAddrV4, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let port = socket.local_addr().unwrap().port();
    let thread = thread::spawn(move || {
        for answers in script {
            let mut buffer = [0; 1500];
            let (length, client) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(b"noise", client).unwrap();
            for (kind, host) in *answers {
                socket
                    .send_to(&answer(&buffer[..length], *kind, *host), client)
                    .unwrap();
            }
        }
    });
    (SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), thread)
}

fn client(server: SocketAddrV4) -> Client {
    Client::open(MAC, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), server).unwrap()
}

fn acquire(script: &'static [&'static [(u8, u8)]]) -> Result<Lease, std::string::String> {
    let (address, thread) = server(script);
    let deadline = Deadline::after(Duration::from_millis(2500));
    let lease = client(address).acquire(deadline).map_err(|e| e.cause);
    thread.join().unwrap();
    lease
}

#[test]
fn acquires_a_lease() {
    let lease = acquire(&[&[(OFFER, 15)], &[(ACK, 15)]]).unwrap();
    assert_eq!(lease.address, Ipv4Addr::new(10, 0, 2, 15));
    assert_eq!(lease.seconds, 3600);
}

#[test]
fn says_it_again_when_nobody_answers() {
    assert!(acquire(&[&[], &[(OFFER, 15)], &[], &[(ACK, 15)]]).is_ok());
}

#[test]
fn starts_over_after_a_refusal() {
    assert!(acquire(&[&[(OFFER, 15)], &[(NAK, 15)], &[(OFFER, 16)], &[(ACK, 16)]]).is_ok());
}

#[test]
fn rejects_another_address_than_offered() {
    let error = acquire(&[&[(OFFER, 15)], &[(ACK, 16)], &[], &[]]).unwrap_err();
    assert!(error.contains("another address"), "{error}");
}

#[test]
fn gives_up_at_the_deadline() {
    let deadline = Deadline::after(Duration::from_millis(30));
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let client = client(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    assert!(client.acquire(deadline).is_err());
    assert!(deadline.passed());
}

#[test]
fn extends_or_loses_a_lease() {
    let lease = acquire(&[&[(OFFER, 15)], &[(ACK, 15)]]).unwrap();
    let extend = |script| {
        let (address, thread) = server(script);
        let result = client(address).extend(&lease, Deadline::after(Duration::from_secs(1)));
        thread.join().unwrap();
        result
    };
    assert_eq!(extend(&[&[(ACK, 15)]]).unwrap(), Some(lease.clone()));
    assert_eq!(extend(&[&[(NAK, 15)]]).unwrap(), None);
    assert!(extend(&[&[(ACK, 16)]]).is_err());
}
