# The recipes of the project; CI runs the same commands. Without `just`, type what stands behind the name.

# List the recipes.
default:
    @just --list --unsorted

# The orders story, with nothing installed.
demo *WORDS:
    cargo run --release -- demo {{WORDS}}

# Everything that CI asks.
test:
    cargo xtask test

# Format, tidy and the light crates: seconds.
quick:
    cargo xtask test --quick

# The rules of the house that no compiler knows.
tidy:
    cargo xtask tidy

# Clippy as CI runs it.
lint:
    cargo clippy --release --workspace --all-targets -- -D warnings

# Write the reference pages anew.
docs:
    cargo xtask docs

# Licences, advisories, duplicates.
deny:
    cargo xtask deny

# Side by side with peers; see bench/README.md.
bench *WORDS:
    bench/run.sh {{WORDS}}
