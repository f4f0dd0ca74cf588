//! disk_faults
