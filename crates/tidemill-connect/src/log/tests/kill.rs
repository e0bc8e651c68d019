//! Real death: another process writes epochs with a manifest of its own and is killed again and again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tidemill_model::Epoch;
use tidemill_runtime::{Committable, SinkCommitter};

use super::{World, rows};

const OPTIONS: &[(&str, &str)] =
    &[("partitions", "2"), ("key", "id"), ("segment_bytes", "3000"), ("retention", "none")];
const KILLS: u64 = 12;
const ROWS: i64 = 40;

/// The process that is killed. It is no test of its own: it does not end.
#[test]
#[ignore = "started and killed by the test below"]
fn victim() {
    let root = std::env::current_dir().expect("a folder");
    if !root.join("victim").exists() {
        return;
    }
    let world = World::at(root, OPTIONS);
    let mut committer = world.committer("p");
    let manifest = world.root.join("manifest");
    let mut epoch = Epoch::NONE;
    if let Ok(text) = fs::read(&manifest) {
        let (last, staged): (Epoch, Vec<Committable>) = serde_json::from_slice(&text).expect("a manifest");
        committer.commit(last, &staged).expect("once more");
        epoch = last;
    }
    committer.abort_after(epoch).expect("cleaned");
    loop {
        epoch = epoch.next();
        let staged = world.stage("p", epoch.0, &[epoch_rows(epoch.0, 0), epoch_rows(epoch.0, 1)]);
        let fresh = manifest.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(&(epoch, &staged)).expect("JSON")).expect("written");
        fs::rename(&fresh, &manifest).expect("renamed");
        committer.commit(epoch, &staged).expect("committed");
    }
}

fn epoch_rows(epoch: u64, lane: i64) -> Vec<tidemill_runtime::Batch> {
    vec![rows(&format!("{epoch}-"), lane * ROWS..(lane + 1) * ROWS)]
}

fn victim_in(root: &Path) -> std::process::Child {
    let test: PathBuf = std::env::current_exe().expect("this binary");
    Command::new(test)
        .args(["--exact", "log::tests::kill::victim", "--ignored"])
        .current_dir(root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process")
}

#[test]
fn killed_again_and_again_it_loses_and_repeats_nothing() {
    let world = World::new(OPTIONS);
    fs::write(world.root.join("victim"), "").expect("written");
    let records = || crate::log::topic_stats(&world.state(), "t").expect("reads").map_or(0, |stats| stats.records());
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..KILLS {
        let mut victim = victim_in(&world.root);
        // It dies when it is at work, a moment of chance after an epoch was seen.
        let before = records();
        while records() <= before {
            assert!(victim.try_wait().expect("asked").is_none(), "the victim failed by itself");
            std::thread::yield_now();
        }
        for _ in 0..random.u32(0..4000) {
            records();
        }
        victim.kill().expect("killed");
        victim.wait().expect("dead");
    }
    let epochs = records() / (2 * ROWS.unsigned_abs());
    assert!(epochs >= KILLS, "{epochs} epochs");
    // What the last one left behind is in the manifest; the next run finishes it.
    let (last, staged): (Epoch, Vec<Committable>) =
        serde_json::from_slice(&fs::read(world.root.join("manifest")).expect("reads")).expect("a manifest");
    assert!(last.0 == epochs || last.0 == epochs + 1, "manifest {last}, topic {epochs}");
    let mut committer = world.committer("p");
    committer.commit(last, &staged).expect("finished");
    committer.abort_after(last).expect("cleaned");
    assert_eq!(world.staged_files("p"), 0);
    let mut expected: Vec<String> =
        (1..=last.0).flat_map(|epoch| (0..2 * ROWS).map(move |id| format!("{epoch}-{id}"))).collect();
    expected.sort();
    assert_eq!(world.texts(), expected);
    for partition in 0..2 {
        let found = world.read(partition, None);
        let epochs = found.iter().map(|(_, text)| text.split('-').next().and_then(|epoch| epoch.parse::<u64>().ok()));
        assert!(epochs.is_sorted(), "epochs in order");
    }
}
