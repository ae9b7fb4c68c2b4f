//! Holds `src/gen/carillon.v1.rs` against the `.proto` files it is made from.
//!
//! `CARILLON_UPDATE_GENERATED=1 cargo test -p carillon-proto --test generated` writes it anew.

use std::path::Path;

#[test]
fn generated_code_agrees_with_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["carillon/v1/log.proto", "carillon/v1/bus.proto"];
    let descriptors = protox::compile(files, [root]).expect("the .proto files compile");
    let out = std::env::temp_dir().join(format!("carillon-generated-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("temporary directory");
    prost_build::Config::new().bytes(["."]).out_dir(&out).compile_fds(descriptors).expect("prost generates");
    let fresh = std::fs::read_to_string(out.join("carillon.v1.rs")).expect("generated file");
    std::fs::remove_dir_all(&out).expect("temporary directory removed");
    let committed = root.join("src/gen/carillon.v1.rs");
    if std::env::var_os("CARILLON_UPDATE_GENERATED").is_some() {
        std::fs::write(&committed, &fresh).expect("written");
    }
    let standing = std::fs::read_to_string(&committed).expect("committed file");
    assert!(standing == fresh, "src/gen is not what the .proto files generate: see this test's first lines");
}
