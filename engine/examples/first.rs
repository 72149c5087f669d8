//! The first embedded program: one node in this process, one stream, one record.

use palisade::{Config, Node};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: first DIR")?;
    let config = Config::embedded(dir);
    if !config.node.data.exists() {
        palisade::format(&config)?;
    }
    let node = Node::open(config)?;
    let stream = node.stream(node.create_stream()?);
    let appended = stream.append("the first record").wait()?;
    println!("stream {} holds it at LSN {}", stream.id(), appended.lsn);
    for record in stream.reader(appended.lsn) {
        println!("{:?}", record?.payload);
    }
    node.stop()?;
    Ok(())
}
