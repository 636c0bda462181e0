//! The forest of versions, drawn.

use bough_blockstore::to_usize;
use bough_radix::TreeNode;

/// The versions' names with their branches in front, in the same order.
///
/// An only child stands below its parent and not to the right of it: a disk with a thousand
/// snapshots stays narrow. Bounded memory: each level of branching costs three columns.
pub fn draw_forest(nodes: &[TreeNode]) -> Vec<String> {
    let shape = Shape::of(nodes);
    // What each open version puts in front of its children's lines.
    let mut open: Vec<String> = Vec::new();
    let mut drawn = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        open.truncate(to_usize(node.depth));
        let before = open.last().map_or("", String::as_str);
        let (branch, below) = shape.prefixes(index, before);
        drawn.push(format!("{branch}{}", node.version.name));
        open.push(below);
    }
    drawn
}

/// What the list of depths says about each version.
struct Shape {
    root: Vec<bool>,
    only_child: Vec<bool>,
    last_child: Vec<bool>,
}

impl Shape {
    fn of(nodes: &[TreeNode]) -> Self {
        let count = nodes.len();
        let mut parents: Vec<Option<usize>> = Vec::with_capacity(count);
        let mut children = vec![0_usize; count];
        let mut last = vec![None; count];
        let mut path: Vec<usize> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            path.truncate(to_usize(node.depth));
            let parent = path.last().copied();
            if let Some(parent) = parent {
                children[parent] += 1;
                last[parent] = Some(index);
            }
            parents.push(parent);
            path.push(index);
        }
        let of_parent = |test: &dyn Fn(usize, usize) -> bool| -> Vec<bool> {
            let each = parents.iter().enumerate();
            each.map(|(index, parent)| parent.is_some_and(|parent| test(index, parent))).collect()
        };
        Self {
            root: parents.iter().map(Option::is_none).collect(),
            only_child: of_parent(&|_, parent| children[parent] == 1),
            last_child: of_parent(&|index, parent| last[parent] == Some(index)),
        }
    }

    /// What goes in front of a version, and in front of what is below it.
    fn prefixes(&self, index: usize, before: &str) -> (String, String) {
        if self.root[index] {
            (String::new(), String::new())
        } else if self.only_child[index] {
            (format!("{before}↓ "), before.to_owned())
        } else if self.last_child[index] {
            (format!("{before}└─ "), format!("{before}   "))
        } else {
            (format!("{before}├─ "), format!("{before}│  "))
        }
    }
}

#[cfg(test)]
mod tests {
    use bough_radix::VersionInfo;

    use super::*;

    fn node(depth: u64, name: &str) -> TreeNode {
        let version = VersionInfo {
            name: name.into(),
            uuid: uuid::Uuid::nil(),
            parent: None,
            parent_uuid: None,
            size_bytes: 0,
            referenced_bytes: 0,
            owned_bytes: 0,
            created_unix: 0,
            sealed: false,
            head: false,
            hidden: false,
            child_count: 0,
        };
        TreeNode { version, depth }
    }

    #[test]
    fn branches_are_drawn_and_chains_stay_narrow() {
        let forest = [
            node(0, "debian@base"),
            node(1, "web@1"),
            node(2, "web@2"),
            node(3, "web"),
            node(3, "trial"),
            node(1, "debian"),
            node(0, "data@1"),
            node(1, "data"),
        ];
        let wanted = [
            "debian@base",
            "├─ web@1",
            "│  ↓ web@2",
            "│  ├─ web",
            "│  └─ trial",
            "└─ debian",
            "data@1",
            "↓ data",
        ];
        assert_eq!(draw_forest(&forest), wanted);
    }

    #[test]
    fn a_hundred_thousand_snapshots_are_drawn_in_as_many_short_lines() {
        let chain: Vec<_> = (0..100_000).map(|depth| node(depth, "x")).collect();
        let drawn = draw_forest(&chain);
        assert_eq!(drawn.len(), 100_000);
        assert!(drawn.iter().all(|line| line.len() < 10));
    }
}
