//! crash_points
