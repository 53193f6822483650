//! Compiles the kernels for the CPU, and names the library.

#[expect(clippy::disallowed_methods, reason = "cargo tells build scripts by the environment")]
fn main() {
    println!("cargo::rerun-if-changed=emulator");
    println!("cargo::rerun-if-changed=../cuda/kernels");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .include("../cuda/kernels")
        .include("emulator")
        // Hints for compilers of GPUs.
        .flag_if_supported("-Wno-unknown-pragmas")
        .file("emulator/emulator.cpp")
        .compile("wharf_emulator");
    // The name that cudarc asks for first: glibc then gives it this library, once it is loaded, wherever it was loaded from, and looks for no other.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    }
}
