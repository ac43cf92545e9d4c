//! The tree against a plain model: random changes, frozen copies, checkpoints to a toy store, eviction and loading.

use super::*;
use crate::address::Address;
use base::GroupId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;

const BLOCKS: u64 = 3 << 16;

/// Pages by address, as a checkpoint stores them.
#[derive(Default)]
struct Pages {
    stored: BTreeMap<u128, Vec<u8>>,
    next: u32,
}

impl Pages {
    fn store(&mut self, node: &Node) {
        if node.entries().all(Address::is_none) {
            return node.set_stored(Address::NONE);
        }
        let bytes = encode_page(node.entries());
        self.next += 1;
        let address = Address::new(GroupId::new(9, self.next), 4096, PAGE_LEN as u32, base::crc::crc32c(&bytes));
        self.stored.insert(address.raw(), bytes);
        node.set_stored(address);
    }

    fn load(&self, tree: &mut Tree, need: NeedPage) {
        let bytes = self.stored.get(&need.address.raw()).expect("only stored pages are asked for");
        tree.attach(need, &decode_page(bytes).expect("written by encode_page"));
    }

    /// Stores the dirty pages of `tree` bottom up and returns the root.
    fn checkpoint(&mut self, tree: &Tree) -> Address {
        for level in 0..tree.height {
            for (_, node) in tree.dirty_pages(level) {
                self.store(&node);
            }
        }
        tree.root.address()
    }
}

fn data(id: u32) -> Address {
    Address::new(GroupId::new(1, 1 + id / 100), 4096 * (1 + id % 100), 4096, id)
}

type Model = BTreeMap<u64, Address>;

fn set(tree: &mut Tree, pages: &Pages, block: u64, addresses: &[Address], dead: &mut Vec<Address>) {
    while let Err(need) = tree.set_run(block, addresses, &mut |old| dead.push(old)) {
        pages.load(tree, need);
    }
}

fn clear(tree: &mut Tree, pages: &Pages, block: u64, count: u64, fill: Address, dead: &mut Vec<Address>) {
    while let Err(need) = tree.clear(block, count, fill, &mut |old| dead.push(old)) {
        pages.load(tree, need);
    }
}

fn look(tree: &mut Tree, pages: &Pages, block: u64) -> Address {
    loop {
        match tree.lookup(block) {
            Ok(address) => return address,
            Err(need) => pages.load(tree, need),
        }
    }
}

/// From another tree's leaf if there is one in memory. How many leaves were had so.
fn look_at_shared(tree: &mut Tree, pages: &Pages, memory: &MapMemory, block: u64) -> u32 {
    let mut shared = 0;
    while let Err(need) = tree.lookup(block) {
        match memory.leaf(need.address) {
            Some(leaf) => {
                tree.attach_leaf(need, leaf);
                shared += 1;
            }
            None => pages.load(tree, need),
        }
    }
    shared
}

fn compare(tree: &mut Tree, pages: &Pages, model: &Model, around: &[u64]) {
    for &block in around.iter().chain(model.keys()) {
        let expect = model.get(&block).copied().unwrap_or(Address::NONE);
        assert_eq!(look(tree, pages, block), expect, "block {block}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set {
        block: u64,
        count: u8,
    },
    Clear {
        block: u64,
        count: u64,
        zeros: bool,
    },
    Checkpoint,
    /// Freeze now, checkpoint the frozen tree after the next step.
    Freeze,
    Evict,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let block = prop_oneof![0..600_u64, 65_000..66_000_u64, 0..BLOCKS];
    let count = prop_oneof![1..300_u64, Just(256), Just(65_536), 1..BLOCKS];
    prop_oneof![
        6 => (block.clone(), 1..40_u8).prop_map(|(block, count)| Step::Set { block, count }),
        2 => (block, count, any::<bool>()).prop_map(|(block, count, zeros)| Step::Clear { block, count, zeros }),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Freeze),
        2 => Just(Step::Evict),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_plain_map(steps in proptest::collection::vec(step(), 1..40)) {
        let memory = Rc::new(MapMemory::default());
        let mut pages = Pages::default();
        let mut tree = Tree::new(Address::NONE, height_for(BLOCKS), memory.clone());
        let mut model = Model::new();
        let mut at_root: Option<(Address, Model)> = None;
        let mut frozen: Option<(Tree, Model)> = None;
        let mut next = 0;
        let mut hand = 0;
        for step in steps {
            let mut dead = Vec::new();
            let mut gone: Vec<Address> = Vec::new();
            let mut touched = Vec::new();
            let thaw = frozen.take();
            match step {
                Step::Set { block, count } => {
                    let count = u64::from(count).min(BLOCKS - block);
                    let addresses: Vec<Address> = (0..count).map(|_| { next += 1; data(next) }).collect();
                    set(&mut tree, &pages, block, &addresses, &mut dead);
                    for (i, address) in addresses.into_iter().enumerate() {
                        gone.extend(model.insert(block + i as u64, address).filter(|old| old.is_stored()));
                    }
                    touched.extend([block, block + count - 1]);
                }
                Step::Clear { block, count, zeros } => {
                    let end = (block + count).min(BLOCKS);
                    let fill = if zeros { Address::ZEROS } else { Address::NONE };
                    clear(&mut tree, &pages, block, end - block, fill, &mut dead);
                    gone.extend(model.range(block..end).map(|(_, old)| *old).filter(|old| old.is_stored()));
                    if zeros {
                        model.extend((block..end).step_by(97).map(|at| (at, Address::ZEROS)));
                        model.retain(|at, old| !(block..end).contains(at) || (*old == Address::ZEROS));
                        model.extend([(block, Address::ZEROS), (end - 1, Address::ZEROS)]);
                        // The model keeps samples of the range only; forget what was known of the rest.
                    } else {
                        model.retain(|at, _| !(block..end).contains(at));
                    }
                    touched.extend([block, end - 1]);
                    if zeros {
                        // Everything between the samples must be zeros as well; check a few and then make it explicit.
                        for at in (block..end).step_by(1013) {
                            prop_assert_eq!(look(&mut tree, &pages, at), Address::ZEROS);
                        }
                        clear(&mut tree, &pages, block, end - block, Address::NONE, &mut dead);
                        model.retain(|at, _| !(block..end).contains(at));
                    }
                }
                Step::Checkpoint => {
                    let root = pages.checkpoint(&tree);
                    prop_assert!(!matches!(&tree.root, Child::Loaded(node) if node.is_dirty()));
                    at_root = Some((root, model.clone()));
                }
                Step::Freeze => frozen = Some((tree.clone(), model.clone())),
                Step::Evict => { tree.evict(&mut hand, u64::MAX); tree.evict(&mut hand, u64::MAX); }
                Step::Restart => if let Some((root, then)) = &at_root {
                    tree = Tree::new(*root, height_for(BLOCKS), memory.clone());
                    model = then.clone();
                },
            }
            let key = |address: &Address| address.raw();
            dead.sort_unstable_by_key(key);
            gone.sort_unstable_by_key(key);
            prop_assert_eq!(dead, gone, "what died is what was overwritten");
            if let Some((tree_then, model_then)) = thaw {
                // The frozen state is stored after the live tree went on, and is what it was.
                let root = pages.checkpoint(&tree_then);
                let mut view = Tree::new(root, tree_then.height, memory.clone());
                compare(&mut view, &pages, &model_then, &touched);
                at_root = Some((root, model_then));
            }
            compare(&mut tree, &pages, &model, &touched);
        }
        drop((tree, frozen));
        prop_assert_eq!(memory.dirty_pages.get(), 0, "every page was counted out");
        prop_assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn trees_that_share_leaves_change_apart(steps in proptest::collection::vec((any::<bool>(), 0..BLOCKS, 0..5u8), 1..60)) {
        let memory = Rc::new(MapMemory::default());
        let mut pages = Pages::default();
        let mut source = Tree::new(Address::NONE, height_for(BLOCKS), memory.clone());
        let mut model = Model::new();
        for block in (0..BLOCKS).step_by(61) {
            let address = data(block as u32 + 1);
            set(&mut source, &pages, block, &[address], &mut Vec::new());
            model.insert(block, address);
        }
        let root = pages.checkpoint(&source);
        drop(source);
        prop_assert_eq!(memory.bytes(), 0);
        let fresh = || (Tree::new(root, height_for(BLOCKS), memory.clone()), model.clone());
        let mut clones = [fresh(), fresh()];
        let mut hand = 0;
        let mut next = 1 << 24;
        for (second, block, kind) in steps {
            let (tree, model) = &mut clones[usize::from(second)];
            match kind {
                0 => {
                    next += 1;
                    set(tree, &pages, block, &[data(next)], &mut Vec::new());
                    model.insert(block, data(next));
                }
                1 => { pages.checkpoint(tree); }
                2 => { tree.evict(&mut hand, u64::MAX); }
                3 => { look_at_shared(tree, &pages, &memory, block); }
                _ => { look(tree, &pages, block); }
            }
            for (tree, model) in &mut clones {
                compare(tree, &pages, model, &[block]);
            }
        }
        drop(clones);
        prop_assert_eq!((memory.bytes(), memory.dirty_pages.get()), (0, 0));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), PAGE_LEN)) {
        if let Ok(entries) = decode_page(&bytes) {
            prop_assert_eq!(encode_page(entries.iter().copied()), bytes);
        }
    }
}

#[test]
fn a_leaf_that_another_tree_has_is_put_in_its_place() {
    let memory = Rc::new(MapMemory::default());
    let mut pages = Pages::default();
    let mut source = Tree::new(Address::NONE, height_for(512), memory.clone());
    set(&mut source, &pages, 300, &[data(7)], &mut Vec::new());
    let root = pages.checkpoint(&source);
    drop(source);
    let [mut one, mut two] = [(); 2].map(|()| Tree::new(root, height_for(512), memory.clone()));
    assert_eq!(look_at_shared(&mut one, &pages, &memory, 300), 0, "nobody has it");
    assert_eq!(look_at_shared(&mut two, &pages, &memory, 300), 1);
    set(&mut two, &pages, 300, &[data(8)], &mut Vec::new());
    assert_eq!((one.lookup(300), two.lookup(300)), (Ok(data(7)), Ok(data(8))));
    assert!(two.is_dirty() && !one.is_dirty());
}

#[test]
fn growing_keeps_what_is_there() {
    let memory = Rc::new(MapMemory::default());
    let mut tree = Tree::new(Address::NONE, height_for(256), memory);
    tree.set_run(255, &[data(7)], &mut |_: Address| {}).expect("nothing is unloaded");
    tree.grow(1 << 34);
    assert_eq!(tree.height, 5);
    assert_eq!(tree.lookup(255), Ok(data(7)));
    assert_eq!(tree.lookup((1 << 34) - 1), Ok(Address::NONE));
    assert_eq!(tree.state_at(256), Ok((Address::NONE, 256)), "the neighbour of a leaf");
    assert_eq!(tree.state_at(1 << 20), Ok((Address::NONE, 1 << 16)), "an empty subtree is skipped in one step");
}

#[test]
fn a_page_of_another_length_is_refused() {
    assert_eq!(decode_page(&[0; 4095]), Err(PageError::Length(4095)));
    let mut page = vec![0; PAGE_LEN];
    page[16 * 3] = 1;
    assert_eq!(decode_page(&page), Err(PageError::Entry(3)), "a checksum without a group");
}

#[test]
fn a_leaf_is_in_memory_once() {
    let memory = Rc::new(MapMemory::default());
    let mut pages = Pages::default();
    let mut source = Tree::new(Address::NONE, height_for(BLOCKS), memory.clone());
    set(&mut source, &pages, 7, &[data(1)], &mut Vec::new());
    let root = pages.checkpoint(&source);
    drop(source);
    let mut trees: Vec<Tree> = Vec::new();
    let mut sizes = vec![0];
    for _ in 0..3 {
        let mut tree = Tree::new(root, height_for(BLOCKS), memory.clone());
        assert_eq!(look(&mut tree, &pages, 7), data(1));
        trees.push(tree);
        sizes.push(memory.bytes());
    }
    let entries = size_of::<[Address; FANOUT]>() as u64;
    assert!(sizes[2] - sizes[1] < sizes[1] - entries, "the second tree takes its inner pages only: {sizes:?}");
    assert_eq!(sizes[2] - sizes[1], sizes[3] - sizes[2]);
    // The first that changes it has its own; the others keep what they had.
    set(&mut trees[0], &pages, 7, &[data(2)], &mut Vec::new());
    assert!(memory.bytes() - sizes[3] >= entries);
    assert_eq!(look(&mut trees[1], &pages, 7), data(1));
    // Known as long as one tree has it.
    let before = memory.bytes();
    trees.truncate(2);
    assert_eq!(look(&mut trees[1], &pages, 7), data(1));
    trees.truncate(1);
    assert!(before - memory.bytes() >= entries);
}
