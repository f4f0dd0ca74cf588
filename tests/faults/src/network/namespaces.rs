//! Each node in a network namespace, joined by veth pairs to one bridge on which clients stand. Packets are
//! dropped where they arrive, by the namespace's own packet filter: silently, as a broken link does, and in
//! one direction where that is wanted.

use crate::command;
use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;

/// Interfaces' names hold fifteen bytes; ours begin so and go on with the process id of whoever made them.
const PREFIX: &str = "flt";

/// The last byte of the bridge's own address.
const BRIDGE: u8 = 254;

/// The narrow link that stands in for a slow one where the kernel has no netem.
const NARROW: [&str; 7] = ["tbf", "rate", "2mbit", "burst", "8k", "latency", "400ms"];

/// The namespaces, the bridge and the pairs between them. Dropping them removes all.
#[derive(Debug)]
pub(crate) struct Namespaces {
    run: u32,
    /// The third byte of all addresses.
    subnet: u8,
    nodes: u64,
    netem: bool,
}

impl Namespaces {
    /// Whether such a network can be made here, by making a small one.
    pub(crate) fn try_out() -> Result<()> {
        let tried = Self::make(1)?;
        tried.cut(2, 1)?;
        tried.lose(1, 50)?;
        tried.heal()
    }

    /// A network for nodes 1 to `nodes`.
    pub(crate) fn make(nodes: u64) -> Result<Self> {
        let run = std::process::id();
        let taken = command::run(&["ip", "-o", "-4", "addr"])?;
        let free = |subnet: &u8| !taken.contains(&format!("10.231.{subnet}."));
        let first = u8::try_from(run % 250).expect("below 250");
        let subnet = (first..250).chain(0..first).find(free).context("no free subnet in 10.231.0.0/16")?;
        // Made before anything is, so that a failure half-way removes what there is.
        let mut made = Self { run, subnet, nodes, netem: false };
        let bridge = made.bridge();
        command::run(&["ip", "link", "add", &bridge, "type", "bridge"])?;
        command::run(&["ip", "addr", "add", &format!("10.231.{subnet}.{BRIDGE}/24"), "dev", &bridge])?;
        command::run(&["ip", "link", "set", &bridge, "up"])?;
        for node in 1..=nodes {
            made.join(node)?;
        }
        made.netem = made.has_netem()?;
        Ok(made)
    }

    fn join(&self, node: u64) -> Result<()> {
        let (space, outer) = (self.space(node), self.outer(node));
        command::run(&["ip", "netns", "add", &space])?;
        let pair = ["ip", "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space];
        command::run(&pair)?;
        command::run(&["ip", "link", "set", &outer, "master", &self.bridge(), "up"])?;
        self.within(node, &["ip", "link", "set", "lo", "up"])?;
        self.within(node, &["ip", "addr", "add", &format!("{}/24", self.address(node)), "dev", "eth0"])?;
        self.within(node, &["ip", "link", "set", "eth0", "up"])
    }

    fn has_netem(&self) -> Result<bool> {
        let has =
            self.within(1, &["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "1ms"]).is_ok();
        if has {
            self.within(1, &["tc", "qdisc", "del", "dev", "eth0", "root"])?;
        }
        Ok(has)
    }

    pub(crate) fn describe(&self) -> String {
        let slow = if self.netem { "netem" } else { "narrow links, as this kernel has no netem" };
        format!("network namespaces on one bridge, with iptables and tc ({slow})")
    }

    fn bridge(&self) -> String {
        format!("{PREFIX}{}b", self.run)
    }

    fn space(&self, node: u64) -> String {
        format!("{PREFIX}{}n{node}", self.run)
    }

    fn outer(&self, node: u64) -> String {
        format!("{PREFIX}{}v{node}", self.run)
    }

    pub(crate) fn address(&self, node: u64) -> Ipv4Addr {
        Ipv4Addr::new(10, 231, self.subnet, u8::try_from(node).expect("a handful of nodes"))
    }

    pub(crate) fn wrapper(&self, node: u64) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.space(node))]
    }

    /// Runs a command in a node's namespace.
    fn within(&self, node: u64, words: &[&str]) -> Result<()> {
        let wrapper = self.wrapper(node);
        let words: Vec<&str> = wrapper.iter().map(String::as_str).chain(words.iter().copied()).collect();
        command::run(&words).map(drop)
    }

    pub(crate) fn cut(&self, from: u64, to: u64) -> Result<()> {
        let from = self.address(from).to_string();
        self.within(to, &["iptables", "-w", "-A", "INPUT", "-s", &from, "-j", "DROP"])
    }

    pub(crate) fn lose(&self, node: u64, percent: u32) -> Result<()> {
        if percent > 100 {
            bail!("{percent} of a hundred packets cannot be lost");
        }
        let share = format!("{:.2}", f64::from(percent) / 100.0);
        let chance = ["-m", "statistic", "--mode", "random", "--probability", &share];
        let rule = [&["iptables", "-w", "-A", "INPUT"], &chance[..], &["-j", "DROP"]].concat();
        self.within(node, &rule)
    }

    pub(crate) fn delay(&self, node: u64, milliseconds: u32) -> Result<()> {
        let (delay, jitter) = (format!("{milliseconds}ms"), format!("{}ms", milliseconds / 4));
        let netem = ["netem", "delay", &delay, &jitter];
        let how: &[&str] = if self.netem { &netem } else { &NARROW };
        self.within(node, &[&["tc", "qdisc", "replace", "dev", "eth0", "root"], how].concat())
    }

    pub(crate) fn heal(&self) -> Result<()> {
        for node in 1..=self.nodes {
            self.within(node, &["iptables", "-w", "-F", "INPUT"])?;
            // Where there is nothing to remove, that is an error, and none to us.
            let removed = self.within(node, &["tc", "qdisc", "del", "dev", "eth0", "root"]);
            if let Err(error) = removed
                && !error.to_string().contains("handle of zero")
                && !error.to_string().contains("No such file")
                && !error.to_string().contains("Invalid argument")
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Whatever is not there was not made. A pair disappears with one of its ends, an end with its
        // namespace.
        for node in 1..=self.nodes {
            command::succeeds(&["ip", "link", "del", &self.outer(node)]);
            command::succeeds(&["ip", "netns", "del", &self.space(node)]);
        }
        command::succeeds(&["ip", "link", "del", &self.bridge()]);
    }
}
