//! Free ports for servers that are about to start.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Context;

/// A free port of 127.0.0.1. The kernel gives the port to nobody else for a minute.
///
/// The port is left in TIME_WAIT. The kernel does not pick such a port for others, but a server that names the port and sets
/// SO_REUSEADDR, as Go's servers do, gets the port.
pub(crate) fn free() -> anyhow::Result<u16> {
    let reserve = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let client = TcpStream::connect(address)?;
        let (accepted, _) = listener.accept()?;
        // The side that closes first is the one that waits.
        drop(accepted);
        drop(client);
        std::io::Result::Ok(address.port())
    };
    reserve().context("failed to find a free port on 127.0.0.1")
}
