//! The topology with lags, in characters.

/// One node of the picture.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) lag: String,
}

/// A standby cluster of one node.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// How the log comes to it.
    pub(crate) how: String,
    pub(crate) cluster: u32,
    pub(crate) region: String,
    pub(crate) node: Node,
}

/// Standbys, each fed by the one before it, the first by the primary.
pub(crate) type Chain = Vec<Link>;

/// Draws the primary's regions side by side and the standbys below: of each region where the
/// primary is below it, of any other one below the first.
pub(crate) fn draw(regions: &[(String, Vec<Node>)], chains: &[Chain]) -> String {
    let blocks: Vec<Vec<String>> =
        regions.iter().map(|(name, nodes)| region(name, nodes)).collect();
    let height = blocks.iter().map(Vec::len).max().unwrap_or(0);
    let mut columns: Vec<Vec<String>> = Vec::new();
    for (at, (mut column, (name, _))) in blocks.into_iter().zip(regions).enumerate() {
        column.resize(height, String::new());
        let home = |chain: &Chain| chain.first().map_or(String::new(), |link| link.region.clone());
        let is_far = |home: &str| regions.iter().all(|(name, _)| name != home);
        let is_below = |home: &str| home == name || (at == 0 && is_far(home));
        for chain in chains.iter().filter(|chain| is_below(&home(chain))) {
            column.extend(chain.iter().flat_map(hang));
        }
        columns.push(column);
    }
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: &Vec<String>| column.iter().map(|line| line.chars().count()).max();
    let widths: Vec<usize> = columns.iter().map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::from("  primary cluster\n");
    for row in 0..rows {
        let mut line = String::from("  ");
        for (column, width) in columns.iter().zip(&widths) {
            let text = column.get(row).map_or("", String::as_str);
            line.push_str(&format!("{text:<width$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A standby and the arrow to it.
fn hang(link: &Link) -> Vec<String> {
    let Link { how, cluster, region: place, node } = link;
    let mut lines = vec!["    |".to_owned(), format!("    | {how}, {}", node.lag)];
    lines.extend(["    v".to_owned(), format!("standby cluster {cluster}")]);
    lines.extend(region(place, std::slice::from_ref(node)));
    lines
}

fn region(name: &str, nodes: &[Node]) -> Vec<String> {
    let texts: Vec<String> = nodes
        .iter()
        .map(|node| format!("{:<8} {:<9} {}", node.name, node.what, node.lag))
        .collect();
    let inner =
        texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(name.len() + 2);
    let mut lines = vec![format!("+- {name} {}+", "-".repeat(inner - name.len()))];
    for text in texts {
        let pad = " ".repeat(inner - text.chars().count());
        lines.push(format!("| {text}{pad}  |"));
    }
    lines.push(format!("+{}+", "-".repeat(inner + 3)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_region_is_as_wide() {
        let node = |name: &str| Node {
            name: name.to_owned(),
            what: "leader".to_owned(),
            lag: "lag 0 B".to_owned(),
        };
        let lines = region("SH", &[node("sh1"), node("sh2")]);
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()));
        let regions = [("SH".to_owned(), vec![node("sh1")]), ("HZ".to_owned(), vec![node("hz1")])];
        let link = |name, cluster, region: &str| Link {
            how: "SYNC from sh1".to_owned(),
            cluster,
            region: region.to_owned(),
            node: node(name),
        };
        let picture = draw(&regions, &[vec![link("s1", 2, "SH")], vec![link("s2", 3, "HZ")]]);
        let lines = |text: &str| picture.lines().filter(|line| line.contains(text)).count();
        assert_eq!((lines("standby cluster 2"), lines("standby cluster 3")), (1, 1), "{picture}");
        let both = |line: &&str| line.contains("cluster 2") && line.contains("cluster 3");
        assert!(picture.lines().any(|line| both(&line)), "side by side: {picture}");
        let below = draw(&regions[..1], &[vec![link("s1", 2, "HZ"), link("s2", 3, "HZ")]]);
        let at = |text: &str| below.find(text).expect("it is drawn");
        assert!(at("sh1 ") < at("s1 ") && at("| s1") < at("| s2"), "{below}");
    }
}
