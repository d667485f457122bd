//! The `kubectl reservoir` plug-in: reads the command line and calls the library.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    reservoir::plugin::run(std::env::args_os().collect()).await
}
