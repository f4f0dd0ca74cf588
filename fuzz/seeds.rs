//! Writes what each target begins with: `seeds FOLDER` makes `FOLDER/TARGET/NUMBER` of the samples that the
//! bounded tests use.

#[expect(dead_code, reason = "only what its samples are made by")]
#[path = "../flotilla/src/kv/format.rs"]
mod format;
#[expect(dead_code, reason = "only its samples are wanted")]
#[path = "../flotilla/src/kv/hostile.rs"]
mod hostile;
#[expect(dead_code, reason = "only its samples are wanted")]
#[path = "../kvserver/tests/hostile/http.rs"]
mod http;
#[expect(dead_code, reason = "only what it has in common with the others")]
#[path = "../raftstore/tests/hostile/log.rs"]
mod log;
#[expect(dead_code, reason = "only its samples are wanted")]
#[path = "../kvserver/tests/hostile/machine.rs"]
mod machine;
#[expect(dead_code, reason = "only its samples are wanted")]
#[path = "../proto/tests/hostile/messages.rs"]
mod messages;
#[expect(dead_code, reason = "what formats are written by")]
#[path = "../flotilla/src/output.rs"]
mod output;
#[expect(dead_code, reason = "only what it has in common with the others")]
#[path = "../raftstore/tests/hostile/panics.rs"]
mod panics;
#[expect(dead_code, reason = "only its samples are wanted")]
#[path = "../raftstore/tests/hostile/wire.rs"]
mod wire;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(std::io::Error::other("usage: seeds FOLDER"));
    };
    let all = [
        ("wire", wire::samples()),
        ("messages", messages::samples()),
        ("commands", machine::commands()),
        ("pieces", machine::pieces()),
        ("http", http::samples()),
        ("import", hostile::samples()),
        // A byte replaced and sealed again, a value cut short, one that goes on.
        ("disk", vec![vec![0, 0x82, 9, 0, 1], vec![7, 0, 40, 0, 0], vec![5, 0x81, 0, 0, 9]]),
    ];
    for (target, samples) in all {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, sample) in samples.into_iter().enumerate() {
            std::fs::write(folder.join(format!("sample-{number}")), sample)?;
        }
    }
    Ok(())
}
