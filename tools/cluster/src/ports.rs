//! Free ports for servers that are about to start.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::Context;

/// A port of 127.0.0.1 that nothing listens on and that nobody else is given for the next minute.
///
/// The port is left in TIME_WAIT: the kernel does not pick such a port for others, yet a server that names it and sets
/// SO_REUSEADDR, as Go's do, can have it.
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
