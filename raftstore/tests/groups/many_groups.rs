//! many_groups
