//! The client against a simulated cluster: one process, a paused clock, a seeded network that loses, repeats and
//! reorders, and a model of the server's session rules that counts what takes effect.

mod deadlines;
mod exactly_once;
mod gathering;
mod http;
mod machine;
mod network;
mod routing;
mod scans;
