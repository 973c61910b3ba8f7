//! Measures the store: `load DATA_DIR [OBJECTS]`. Writes one object after the other and many at once, lists, gets, and opens it
//! again with all of them. Figures go to standard output; the memory is this process's own.

use http_body_util::{BodyExt, Full};
use multihome_apiserver::{AdmitAll, ApiServer, ResourceType};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tower::ServiceExt;

const WIDGETS: &str = "/apis/conformance.multihome.io/v1/namespaces/default/widgets";

fn open(path: &Path) -> Result<ApiServer, Box<dyn std::error::Error>> {
    let widget = serde_json::from_str(include_str!("../tests/widget.json"))?;
    Ok(ApiServer::open(path, vec![ResourceType::from_crd(&widget)?], Arc::new(AdmitAll))?)
}

async fn call(api: &ApiServer, method: &str, path: String, body: String) -> (u16, usize) {
    let request = http::Request::builder().method(method).uri(path).body(Full::new(bytes::Bytes::from(body)));
    let Ok(request) = request else { return (0, 0) };
    let Ok(response) = api.clone().oneshot(request).await;
    let status = response.status().as_u16();
    (status, response.into_body().collect().await.map_or(0, |b| b.to_bytes().len()))
}

fn widget(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"conformance.multihome.io/v1","kind":"Widget","metadata":{{"name":"{name}","labels":{{"app":"load"}}}},"spec":{{"color":"red","parts":[{{"name":"a"}},{{"name":"b"}}],"extra":{{"text":"{}"}}}}}}"#,
        "x".repeat(600)
    )
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find(|l| l.starts_with("VmRSS"))
        .map_or("?".into(), |l| l.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("usage: load DATA_DIR [OBJECTS]")?).join("store.db");
    let objects: usize = args.next().map_or(Ok(100_000), |n| n.parse())?;
    let started = Instant::now();
    let api = open(&path)?;
    println!("open, empty: {:.1} ms, {}", started.elapsed().as_secs_f64() * 1e3, memory());

    let started = Instant::now();
    for n in 0..200 {
        let (status, _) = call(&api, "POST", WIDGETS.into(), widget(&format!("one-{n}"))).await;
        assert_eq!(status, 201);
    }
    println!("one write after the other: {:.2} ms each", started.elapsed().as_secs_f64() * 1e3 / 200.0);

    let started = Instant::now();
    for chunk in (0..objects).collect::<Vec<_>>().chunks(256) {
        let writes = chunk.iter().map(|n| call(&api, "POST", WIDGETS.into(), widget(&format!("w-{n:06}"))));
        assert!(futures::future::join_all(writes).await.iter().all(|(status, _)| *status == 201));
    }
    println!("256 writes at once: {:.0} writes/s, {}", objects as f64 / started.elapsed().as_secs_f64(), memory());

    let started = Instant::now();
    for n in 0..10_000 {
        assert_eq!(call(&api, "GET", format!("{WIDGETS}/w-{:06}", n % objects), String::new()).await.0, 200);
    }
    println!("get: {:.1} us", started.elapsed().as_secs_f64() * 1e6 / 1e4);
    let started = Instant::now();
    let (_, size) = call(&api, "GET", format!("{WIDGETS}?limit=500"), String::new()).await;
    println!("list of 500: {:.2} ms, {size} bytes", started.elapsed().as_secs_f64() * 1e3);
    drop(api);

    let started = Instant::now();
    let _api = open(&path)?;
    println!("open, {objects} objects: {:.2} s, {}", started.elapsed().as_secs_f64(), memory());
    Ok(())
}
