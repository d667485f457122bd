//! The `reservoir` program.

use clap::Parser;
use reservoir::cli::Cli;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Cli::parse().run().await
}
