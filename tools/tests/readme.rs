//! What README shows is what is built and tested.

/// The first block of Rust.
fn rust_block(page: &str) -> &str {
    let (_, rest) = page.split_once("```rust\n").expect("a block of Rust");
    rest.split_once("```").expect("its end").0
}

#[test]
fn the_first_program_of_readme_is_the_example() {
    let shown = rust_block(include_str!("../../README.md"));
    let example = include_str!("../../engine/examples/first.rs");
    // The file also says what it is.
    let code = example.lines().skip_while(|line| line.starts_with("//!") || line.is_empty());
    let code: Vec<&str> = code.collect();
    assert_eq!(shown.lines().collect::<Vec<_>>(), code);
}
