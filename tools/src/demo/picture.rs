//! The topology with lags, in characters.

/// One node of the picture.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) what: String,
    pub(crate) lag: String,
}

/// Draws the primary's regions side by side and the standby below its region.
pub(crate) fn draw(regions: &[(String, Vec<Node>)], standby: Option<&(String, Node)>) -> String {
    let blocks: Vec<Vec<String>> =
        regions.iter().map(|(name, nodes)| region(name, nodes)).collect();
    let height = blocks.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = String::from("  primary cluster\n");
    for line in 0..height {
        let mut row = String::from("  ");
        for block in &blocks {
            let width = block.first().map_or(0, |first| first.chars().count());
            let text = block.get(line).cloned().unwrap_or_else(|| " ".repeat(width));
            row.push_str(&text);
            row.push_str("   ");
        }
        out.push_str(row.trim_end());
        out.push('\n');
    }
    let Some((place, node)) = standby else { return out };
    // The arrow leaves from the region in which the standby stands, where there is one.
    let mut before = 2;
    for ((name, _), block) in regions.iter().zip(&blocks) {
        if name == place {
            break;
        }
        before += block.first().map_or(0, |first| first.chars().count()) + 3;
    }
    let pad = " ".repeat(before);
    out.push_str(&format!("{pad}    |\n{pad}    | {}\n{pad}    v\n", node.lag));
    out.push_str(&format!("{pad}standby cluster\n"));
    for line in region(place, std::slice::from_ref(node)) {
        out.push_str(&format!("{pad}{line}\n"));
    }
    out
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
        let picture = draw(&regions, Some(&("HZ".to_owned(), node("standby"))));
        assert!(picture.contains("standby cluster"), "{picture}");
    }
}
