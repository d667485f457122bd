//! Ctrl-C and termination: asked for by a signal, answered where work is waited for.
//!
//! A signal does not end the process. It makes [`crate::command::Cmd`] kill what it waits for and return an error,
//! so that every caller on the way out undoes what it began, as after any other error.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::progress::say;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Turns SIGINT, SIGTERM and SIGHUP into a request to stop, for the rest of the process's life.
///
/// For programs; a test keeps the default, which is to die.
pub fn watch() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the signal watcher")?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _entered = runtime.enter();
        let listen = |kind| signal(kind).context("failed to listen for signals");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?)
    };
    let watcher = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        say("asked to stop; removing what was started");
        REQUESTED.store(true, Ordering::SeqCst);
        // The handlers stay installed: a second Ctrl-C must not cut the clean-up short.
        std::future::pending::<()>().await;
    };
    let watch = move || runtime.block_on(watcher);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch)
        .context("failed to start the signal watcher")?;
    Ok(())
}

/// True once a signal has asked this process to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
