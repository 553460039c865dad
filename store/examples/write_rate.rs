//! Prints durable writes a second at 1, 16 and 128 writers: `cargo run -p gantry-store --example write_rate [TARGET]`.
//! TARGET is `embedded:DIR` (by default in a temporary directory) or `etcd://HOST:PORT`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_store::{Op, Options, Store, Target};

/// The size of a typical pod.
const VALUE_BYTES: usize = 2_100;
const TIME: Duration = Duration::from_secs(3);

#[tokio::main]
#[allow(clippy::print_stdout, reason = "printing is what it is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let text = std::env::args().nth(1).unwrap_or_else(|| "embedded".to_owned());
    let target = Target::parse(&text, &dir.path().join("store"))?;
    let store = gantry_store::open(&target, Options::default()).await?;
    println!("{target}, values of {VALUE_BYTES} bytes");
    for writers in [1, 16, 128] {
        let written = run(&store, writers).await?;
        println!("{writers:>4} writers: {:>7.0} writes/s", written as f64 / TIME.as_secs_f64());
    }
    store.close().await?;
    Ok(())
}

async fn run(store: &Arc<dyn Store>, writers: usize) -> Result<u64, gantry_store::Error> {
    let written = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + TIME;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let (store, written) = (Arc::clone(store), Arc::clone(&written));
        tasks.spawn(async move {
            let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
            let mut i = 0;
            while Instant::now() < end {
                let key = format!("pods/{writers}/{writer}/{i}");
                store.txn(vec![Op::Put { key, value: value.clone(), precondition: None }]).await?;
                written.fetch_add(1, Ordering::Relaxed);
                i += 1;
            }
            Ok::<(), gantry_store::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok(done) = done {
            done?;
        }
    }
    Ok(written.load(Ordering::Relaxed))
}
