//! What tests prove blocks with, where it does not matter.

/// A pipeline of `split`, `prove`, `join` and `verify`. `rest`: its provers and policies.
pub fn four_stages(name: &str, rest: &str) -> String {
    format!(
        r#"
name = "{name}"
[[stage]]
name = "split"
kind = "split"
[[stage]]
name = "prove"
kind = "map"
[[stage]]
name = "join"
kind = "join"
[[stage]]
name = "verify"
kind = "verify"
{rest}"#
    )
}

/// A prover that nobody runs.
pub const NO_PROVER: &str = r#"
[prover.none]
form = "session"
command = ["none"]
"#;
