//! Compiles the vendored protocols of `proto/` to Rust; needs no `protoc`.

use std::error::Error;

const PROTOCOLS: [&str; 3] = ["csi.proto", "nri.proto", "pluginregistration.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOCOLS, ["proto"])?;

    // Requests carry secrets and tokens. Without `Debug` no log line can print one (S17).
    let requests: Vec<String> = descriptors
        .file
        .iter()
        .filter(|file| file.package() == "csi.v1")
        .flat_map(|file| &file.message_type)
        .filter(|message| message.name().ends_with("Request"))
        .map(|message| format!(".csi.v1.{}", message.name()))
        .collect();

    tonic_prost_build::configure()
        // The comments' indented examples would be taken for documentation tests.
        .disable_comments(["."])
        .skip_debug(requests)
        .compile_fds(descriptors)?;
    Ok(())
}
