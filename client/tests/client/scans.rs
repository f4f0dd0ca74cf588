//! Listings come in order, complete, in pages, whatever the network does.

use crate::network::{Faults, Network};
use flotilla_client::{Page, Range};
use futures_util::TryStreamExt;
use std::time::Duration;

async fn filled(faults: Faults) -> (Network, flotilla_client::Client, Vec<String>) {
    let network = Network::new(3, faults);
    let client = network.client().await;
    let keys: Vec<String> = (0..250).map(|number| format!("k/{number:03}")).collect();
    for key in &keys {
        client.put(key, key).await.expect("within the deadline");
    }
    client.put("other", "x").await.expect("within the deadline");
    (network, client, keys)
}

fn keys_of(pages: &[Page]) -> Vec<String> {
    let records = pages.iter().flat_map(|page| &page.records);
    records.map(|record| String::from_utf8(record.key.to_vec()).expect("tests write text")).collect()
}

/// Pages follow each other without gap or repetition, each within its bound, also when pages must be asked for
/// again.
#[tokio::test(start_paused = true)]
async fn pages_are_complete_and_in_order() {
    let faults = Faults {
        drop_reply: 0.1,
        item_refused: 0.1,
        delay_max: Duration::from_millis(5),
        ..Faults::default()
    };
    let (_, client, keys) = filled(faults).await;
    let range = Range { page_records: 60, ..Range::prefix("k/") };
    let pages: Vec<Page> = client.scan(range).pages().try_collect().await.unwrap();
    assert_eq!(keys_of(&pages), keys);
    assert_eq!(pages.iter().map(|page| page.records.len()).collect::<Vec<_>>(), [60, 60, 60, 60, 10]);
    let resumed = Range { after: pages[2].cursor.clone(), ..Range::prefix("k/") };
    assert_eq!(client.scan(resumed).collect(usize::MAX).await.unwrap().len(), 70);
}

/// A limit, a start and a bound of bytes are kept.
#[tokio::test(start_paused = true)]
async fn bounds_of_a_listing() {
    let (_, client, keys) = filled(Faults::default()).await;
    let range = Range { start: "k/100".into(), ..Range::prefix("k/") };
    let records = client.scan(range.clone()).collect(7).await.unwrap();
    assert_eq!(
        records.iter().map(|record| &record.key[..]).collect::<Vec<_>>(),
        keys[100..107].iter().map(String::as_bytes).collect::<Vec<_>>()
    );
    let mut scan = client.scan(Range { page_bytes: 25, ..range });
    assert_eq!(scan.next_page().await.unwrap().map(|page| page.records.len()), Some(2));
    assert!(client.scan(Range { page_records: 0, ..Range::default() }).next_page().await.is_err());
}
