//! Compiles the protocol's definitions, without the protobuf compiler that a machine may lack.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["plugin.proto", "base.proto", "driver.proto", "structs.proto", "rpc.proto"];
    let definitions = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // A client comes with each service: the tests' host speaks by it.
    tonic_prost_build::configure()
        .build_transport(false)
        .include_file("services.rs")
        .out_dir(out)
        .compile_fds(definitions)?;
    Ok(())
}
