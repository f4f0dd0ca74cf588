//! The memory that reading takes, held against the bytes that were read.

/// The most memory that may be held at once.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Whatever is read.
    pub own: u64,
    /// For each byte that is read.
    pub each: u64,
}

impl Bound {
    /// Reads `bytes` by `read`, and looks at the most memory that this thread held meanwhile.
    pub fn hold<T>(self, bytes: &[u8], read: impl FnOnce() -> T) -> T {
        let mut done = None;
        let held = allocation_counter::measure(|| done = Some(read())).bytes_max;
        let most = self.own + self.each * bytes.len() as u64;
        let text = bytes.escape_ascii();
        assert!(held <= most, "{held} bytes were held for {}, not {most} at most: {text}", bytes.len());
        done.expect("it was read")
    }
}
