//! Tests of the Nexmark model: the published proportions, tables that agree, and the same rows for ever.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tidemill_model::Timestamp;

use super::tests::{all_records, config_error};

fn table(table: &str, more: &[(&str, &str)]) -> Vec<Value> {
    let options = [&[("model", "nexmark"), ("table", table), ("rows", "50000")], more].concat();
    let parse = |record: &Vec<u8>| serde_json::from_slice(record).expect("JSON");
    all_records(&options).iter().map(parse).collect()
}

fn ids(rows: &[Value], column: &str) -> Vec<i64> {
    rows.iter().map(|row| row[column].as_i64().expect("a number")).collect()
}

fn time(row: &Value, column: &str) -> Timestamp {
    Timestamp::parse(row[column].as_str().expect("text")).expect("a time")
}

#[test]
fn content_never_changes() {
    let crc = ["person", "auction", "bid"].map(|table| {
        let records =
            all_records(&[("model", "nexmark"), ("table", table), ("rows", "5000"), ("disorder", "2 seconds")]);
        records.iter().fold(0, |crc, record| crc32c::crc32c_append(crc, record))
    });
    // Whoever changes these numbers makes all measurements incomparable with earlier ones.
    assert_eq!(crc, [127_768_134, 2_795_411_183, 999_679_506], "content changed");
}

#[test]
fn tables_have_their_shares_and_name_only_what_was_before() {
    let (people, auctions, bids) = (table("person", &[]), table("auction", &[]), table("bid", &[]));
    assert_eq!((people.len(), auctions.len(), bids.len()), (1_000, 3_000, 46_000));
    let born = |rows: &[Value]| -> HashMap<i64, Timestamp> {
        rows.iter().map(|row| (row["id"].as_i64().expect("an id"), time(row, "date_time"))).collect()
    };
    let (people, open) = (born(&people), born(&auctions));
    assert_eq!((people.len(), open.len()), (1_000, 3_000), "ids are their own");
    for auction in &auctions {
        let (at, seller) = (time(auction, "date_time"), auction["seller"].as_i64().expect("a seller"));
        assert!(people.get(&seller).is_some_and(|born| *born <= at), "{auction}");
        assert!(time(auction, "expires") > at && auction["reserve"].as_i64() > auction["initial_bid"].as_i64());
        assert!((10..15).contains(&auction["category"].as_i64().expect("a category")));
    }
    for bid in &bids {
        let at = time(bid, "date_time");
        assert!(people.get(&bid["bidder"].as_i64().expect("a bidder")).is_some_and(|born| *born <= at), "{bid}");
        assert!(open.get(&bid["auction"].as_i64().expect("an auction")).is_some_and(|born| *born <= at), "{bid}");
        assert!((100..=100_000_000).contains(&bid["price"].as_i64().expect("a price")), "{bid}");
    }
    let share = |rows: &[Value], column: &str, of: i64, hot: i64| {
        ids(rows, column).iter().filter(|id| (*id - 1000) % of == hot).count() as f64 / rows.len() as f64
    };
    assert!((0.48..0.54).contains(&share(&bids, "auction", 100, 0)), "hot auctions");
    assert!((0.73..0.78).contains(&share(&bids, "bidder", 100, 1)), "hot bidders");
    assert!((0.73..0.79).contains(&share(&auctions, "seller", 100, 0)), "hot sellers");
    let hot = bids.iter().filter(|bid| ["Google", "Facebook", "Baidu", "Apple"].iter().any(|c| bid["channel"] == *c));
    assert!((22_000..24_000).contains(&hot.count()), "one of two comes through a hot channel");
    let channels: HashSet<&str> = bids.iter().filter_map(|bid| bid["channel"].as_str()).collect();
    assert!(channels.len() > 8_000, "{}", channels.len());
}

#[test]
fn events_are_out_of_order_by_less_than_asked() {
    let bids = table("bid", &[("disorder", "2 seconds")]);
    let mut newest = Timestamp(0);
    let mut behind = 0;
    for bid in &bids {
        let at = time(bid, "date_time");
        assert!(at.0 > newest.0 - 2_000_000, "{bid}");
        behind += usize::from(at < newest);
        newest = newest.max(at);
    }
    assert!(behind > 10_000);
}

#[test]
fn what_a_model_does_not_have_is_refused() {
    for (options, fact) in [
        (&[("model", "nexmark"), ("null_share", "0.5")][..], "model `orders` has it"),
        (&[("table", "bid")][..], "model `nexmark` has it"),
    ] {
        let error = config_error(options);
        assert!(error.to_string().contains(fact), "{error}");
    }
}
