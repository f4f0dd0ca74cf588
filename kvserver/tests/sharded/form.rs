//! How much of a row a run takes on, and by which seed, as the environment says.

/// The rounds that a row asks for, or `few` in the default run.
pub(crate) fn rounds(full: u64, few: u64) -> u64 {
    if std::env::var_os("FLOTILLA_FULL_ROUNDS").is_some() { full } else { few }
}

/// The seed that a test asks for, moved by the environment's offset.
pub(crate) fn seed_of(seed: u64) -> u64 {
    let offset = std::env::var("FLOTILLA_SEED_OFFSET").map(|offset| offset.parse::<u64>());
    offset.map_or(seed, |offset| seed + 1_000 * offset.expect("FLOTILLA_SEED_OFFSET is a number"))
}
