//! Links the program with the simulator's `entropy.c` in the place of the operating system's randomness, and tells it
//! which compiler made it.

use std::process::Command;

const ENTROPY: &str = "../simulation/src/entropy.c";

fn main() {
    println!("cargo::rerun-if-changed={ENTROPY}");
    for object in cc::Build::new().file(ENTROPY).compile_intermediates() {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
    let rustc = std::env::var_os("RUSTC").expect("cargo names the compiler");
    let said = Command::new(rustc).arg("--version").output().expect("the compiler can be started");
    println!("cargo::rustc-env=GUARD_RUSTC={}", String::from_utf8_lossy(&said.stdout).trim());
}
