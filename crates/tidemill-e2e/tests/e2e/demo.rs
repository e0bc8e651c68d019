//! The demo, as anyone would run it, with fewer orders.

use serde_json::Value;

use crate::binary;

#[test]
fn the_story_agrees_with_the_truth() {
    let folder = tidemill_testkit::ProjectFolder::new("").expect("a folder");
    let story = folder.join("story");
    let words = ["demo", "--rows", "20000", "--format", "json", "--folder", &story.to_string_lossy()];
    let ran = binary::run(folder.path(), &words);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told = ran.json();
    assert_eq!(told["agree"], Value::Bool(true), "{told}");
    let rows = told["truth"]["rows"].as_u64().expect("a count");
    assert!((19_000..20_000).contains(&rows), "some of 20000 orders are bad: {told}");
    assert!(told["truth"]["revenue"].as_f64().is_some_and(|revenue| revenue > 0.0), "{told}");
    for mode in ["continuous", "micro_batch", "interval"] {
        assert_eq!(told["modes"][mode], told["truth"], "{mode}");
    }
    let dead: u64 = told["dead_letters"].as_object().expect("reasons").values().filter_map(Value::as_u64).sum();
    assert_eq!(dead + rows, 20_000, "every order is accepted or a dead letter: {told}");
}
