//! Links the program with `entropy.c` in the place of the operating system's randomness; the library is left alone.

fn main() {
    println!("cargo::rerun-if-changed=src/entropy.c");
    for object in cc::Build::new().file("src/entropy.c").compile_intermediates() {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
}
