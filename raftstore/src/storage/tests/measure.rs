//! TEMPORARY measurement
use super::*;
use std::time::Duration;
use tokio::time::Instant;

fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/statm").unwrap();
    s.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4 / 1024
}
fn cpu() -> Duration {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(") ").next().unwrap().split(' ').collect();
    let t: u64 = f[11].parse::<u64>().unwrap() + f[12].parse::<u64>().unwrap();
    Duration::from_millis(t * 10)
}

#[test]
#[ignore]
fn measure() {
    real(|folder| async move {
        for (size, per, total) in [(100usize, 1u64, 3_000u64), (100, 64, 300_000), (1_000, 64, 200_000), (16_000, 8, 16_000), (100_000, 4, 2_000)] {
            let sub = TempDir::new_in(folder.path()).unwrap();
            let storage = open_real(&sub, StorageConfig { slack_bytes: 1 << 40, ..StorageConfig::default() }).await.unwrap();
            let (t, c) = (Instant::now(), cpu());
            let mut handles = Vec::new();
            for g in 1..=4u64 {
                let mut log = storage.log(GroupId(g));
                handles.push(tokio::spawn(async move {
                    let mut i = 0;
                    while i < total / 4 {
                        append_synced(&mut log, entries(1, i..i + per, size)).await;
                        i += per;
                    }
                }));
            }
            for h in handles { h.await.unwrap(); }
            let s = storage.stats();
            let disk = storage.disk_bytes().await.unwrap();
            println!("size {size} per {per}: {} entries in {:?}, cpu {:?}, records {} syncs {} written {} MiB disk {} MiB ratio {:.3} rss {} MiB sync us {:?}", s.entries, t.elapsed(), cpu() - c, s.records, s.syncs, s.bytes_written >> 20, disk >> 20, disk as f64 / s.bytes_written as f64, rss(), s.sync_micros);
            storage.close().await.unwrap();
            drop(storage);
            let t = Instant::now();
            let storage = loop {
                match open_real(&sub, StorageConfig::default()).await { Ok(s) => break s, Err(StorageError::Disk(crate::disk::DiskError::InUse(_))) => tokio::task::yield_now().await, Err(e) => panic!("{e}") }
            };
            println!("   reopened in {:?} rss {} MiB disk {} MiB", t.elapsed(), rss(), storage.disk_bytes().await.unwrap() >> 20);
            let t = Instant::now();
            let mut log = storage.log(G1);
            let mut at = 0; let mut n = 0;
            while at < total / 4 { let e = log.limited_get_log_entries(at, total / 4).await.unwrap(); at = e.last().unwrap().log_id.index() + 1; n += 1; }
            println!("   g1 read back in {:?}, {n} reads, {} from disk, rss {}", t.elapsed(), storage.stats().disk_reads, rss());
            storage.close().await.unwrap();
        }
        let storage = open_real(&folder, StorageConfig::default()).await.unwrap();
        let t = Instant::now();
        let snapshots = storage.snapshots(G1);
        let mut w = snapshots.create().await.unwrap();
        for i in 0..4_000u32 { w.append(vec![i as u8; 96 << 10]).await.unwrap(); }
        let s = w.finish(Default::default()).await.unwrap();
        println!("snapshot {} MiB written in {:?} rss {} disk {} MiB", s.bytes >> 20, t.elapsed(), rss(), storage.disk_bytes().await.unwrap() >> 20);
        snapshots.install(&s).await.unwrap();
        let t = Instant::now();
        let mut r = s.read();
        while let Some(_) = r.next().await.unwrap() {}
        println!("read in {:?} rss {}", t.elapsed(), rss());
    });
}

#[test]
#[ignore]
fn plateau() {
    real(|folder| async move {
        let mib: u64 = std::env::var("SEG").ok().and_then(|s| s.parse().ok()).unwrap_or(64);
        let storage = open_real(&folder, StorageConfig { segment_bytes: mib << 20, ..StorageConfig::default() }).await.unwrap();
        let mut log = storage.log(G1);
        let (t, c) = (Instant::now(), cpu());
        let mut i = 0;
        while i < 2_000_000 {
            append_synced(&mut log, entries(1, i..i + 100, 1_000)).await;
            i += 100;
            if i % 100_000 == 0 { log.purge(id(1, i - 50_000)).await.unwrap(); }
            if i % 200_000 == 0 { println!("{i} {:?} cpu {:?} rss {} disk {} MiB {} segs", t.elapsed(), cpu() - c, rss(), storage.disk_bytes().await.unwrap() >> 20, storage.stats().segments); }
        }
        println!("{:?}", storage.stats());
    });
}

#[test]
#[ignore]
fn snap() {
    real(|folder| async move {
        let storage = open_real(&folder, StorageConfig::default()).await.unwrap();
        let snapshots = storage.snapshots(G1);
        for _ in 0..3 {
        let t = Instant::now();
        let mut w = snapshots.create().await.unwrap();
        for i in 0..8_000u32 { w.append(vec![i as u8; 96 << 10]).await.unwrap(); }
        let s = w.finish(Default::default()).await.unwrap();
        println!("snapshot {} MiB written in {:?} rss {} disk {} MiB", s.bytes >> 20, t.elapsed(), rss(), storage.disk_bytes().await.unwrap() >> 20);
        snapshots.install(&s).await.unwrap();
        let t = Instant::now();
        let mut r = s.read();
        while let Some(_) = r.next().await.unwrap() {}
        println!("read in {:?} rss {}", t.elapsed(), rss());
        }
    });
}
