//! Every aggregate that there is, in every kind of group: a snapshot in the middle equals no snapshot, and both equal
//! DataFusion.

use super::*;

/// What aggregates may be called with; each is tried with all of these.
const ARGUMENTS: &[&str] = &[
    "(amount)",
    "(price)",
    "(customer)",
    "(region)",
    "(paid)",
    "(at)",
    "(price, customer)",
    "(price, 0.25)",
    "(price, amount, 0.25)",
    "(region, ',' ORDER BY id)",
    "(price ORDER BY id)",
    "(region ORDER BY id)",
    "(price, 2 ORDER BY id)",
    "(0.25) WITHIN GROUP (ORDER BY price)",
    "(customer, 0.25) WITHIN GROUP (ORDER BY price)",
];

/// How rows are grouped: the columns that tell a group, and where its rows come from.
const GROUPS: &[(&str, &str)] = &[
    ("region, window_start", "TUMBLE(orders, at, INTERVAL '1 minute')"),
    ("region, window_start", "HOP(orders, at, INTERVAL '30 seconds', INTERVAL '2 minutes')"),
    ("customer, window_start", "SESSION(orders, at, INTERVAL '20 seconds', PARTITION BY customer)"),
    ("region", "orders"),
];

/// Those that are no aggregates of values: `grouping` tells of GROUPING SETS, which streams refuse.
const OTHER: &[&str] = &["grouping"];

/// Those that a stream refuses in some kinds of groups, with how many it has them in: their answer depends on the order of
/// rows, which are held for a window of TUMBLE or HOP only.
const ORDERED: &[(&str, usize)] = &[
    ("approx_percentile_cont_with_weight", 0),
    ("array_agg", 2),
    ("first_value", 2),
    ("last_value", 2),
    ("nth_value", 2),
    ("string_agg", 2),
];

/// The first ones are read without a snapshot, the others go on in a new process in the middle of every group.
const WAYS: &[Way] = &[
    Way { cut: 64, lanes: 1, barrier: 1_000_000, restart: None },
    Way { cut: 90, lanes: 2, barrier: 2, restart: Some(3) },
];

/// Whether two rows are the same but for the last digits of doubles, which sums in another order may leave.
fn alike(one: &str, other: &str) -> bool {
    let cell = |(one, other): (&str, &str)| {
        one == other
            || one.contains('e')
                && matches!((one.parse::<f64>(), other.parse::<f64>()), (Ok(a), Ok(b)) if (a - b).abs() <= 1e-7 * b.abs())
    };
    one.split(' ').count() == other.split(' ').count() && one.split(' ').zip(other.split(' ')).all(cell)
}

#[test]
fn a_snapshot_in_the_middle_equals_none() {
    let orders = orders(11, 500);
    let mut names: Vec<String> = session_state().aggregate_functions().keys().cloned().collect();
    names.sort();
    assert!(names.len() > 30, "{names:?}");
    let (mut never, mut wrong) = (Vec::new(), Vec::new());
    for name in names.iter().filter(|name| !OTHER.contains(&name.as_str())) {
        let mut shapes = 0;
        for (keys, from) in GROUPS {
            // Two kinds of arguments tell enough.
            let mut tried = 0;
            for arguments in ARGUMENTS {
                let sql = format!("SELECT {keys}, {name}{arguments} AS a, count(*) AS n FROM {from} GROUP BY {keys}");
                let statement = format!("CREATE MATERIALIZED VIEW v AS {sql}");
                if plan(&format!("{TABLES} {statement};"), &open()).is_err() {
                    continue;
                }
                // Arguments may be such that only their values show that they are none.
                let Ok(expected) = answer(&sql, &orders) else { continue };
                for way in WAYS {
                    let (_, viewed) = run(&statement, &orders, *way);
                    let differs = viewed.iter().zip(&expected).find(|(ours, theirs)| !alike(ours, theirs));
                    if differs.is_some() || viewed.len() != expected.len() {
                        wrong.push(format!("{sql} {way:?}: {differs:?}"));
                    }
                }
                tried += 1;
                if tried == 2 {
                    break;
                }
            }
            shapes += usize::from(tried > 0);
        }
        if shapes < GROUPS.len() {
            never.push((name.as_str(), shapes));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(never, ORDERED, "every other aggregate is had in every kind of group");
}
