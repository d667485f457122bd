//! Paths of fields, each as a number: of the many fields of an object, few are new.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A step of the way to a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Field(String),
    /// The keys of an element of a list that is a map, as JSON.
    Element(String),
}

/// A path. Its number is larger than that of what it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(usize);

/// A quick hash of names: nobody chooses names that collide.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

type Children = HashMap<Box<str>, Path, BuildHasherDefault<Quick>>;

/// What is known of a path.
struct Known {
    parent: Path,
    depth: usize,
    key: Key,
    fields: Children,
    elements: Children,
}

impl Known {
    fn new(parent: Path, depth: usize, key: Key) -> Self {
        Self { parent, depth, key, fields: Children::default(), elements: Children::default() }
    }
}

thread_local! {
    /// The paths of this thread, which runs one seed.
    static ALL: RefCell<Vec<Known>> = RefCell::new(vec![Known::new(Path::ROOT, 0, Key::Field(String::new()))]);
}

impl Path {
    /// The object itself.
    pub const ROOT: Self = Self(0);

    /// The only list of our objects that is a set.
    pub fn finalizers() -> Self {
        Self::ROOT.field("metadata").field("finalizers")
    }

    fn known<T>(self, read: impl FnOnce(&Known) -> T) -> T {
        ALL.with_borrow(|all| read(&all[self.0]))
    }

    pub fn field(self, name: &str) -> Self {
        self.child(name, |known| &mut known.fields, Key::Field)
    }

    pub fn element(self, key: &str) -> Self {
        self.child(key, |known| &mut known.elements, Key::Element)
    }

    /// The child of that name, which gets its number when it is first asked for.
    fn child(self, name: &str, children: fn(&mut Known) -> &mut Children, key: fn(String) -> Key) -> Self {
        ALL.with_borrow_mut(|all| {
            if let Some(known) = children(&mut all[self.0]).get(name) {
                return *known;
            }
            let path = Self(all.len());
            all.push(Known::new(self, all[self.0].depth + 1, key(name.to_owned())));
            children(&mut all[self.0]).insert(name.into(), path);
            path
        })
    }

    pub fn depth(self) -> usize {
        self.known(|known| known.depth)
    }

    pub fn is_field(self) -> bool {
        self.known(|known| matches!(known.key, Key::Field(_)))
    }

    /// What the path lies in, without the object itself, the nearest first.
    pub fn parents(self) -> impl Iterator<Item = Self> {
        let parent =
            |path: Self| Some(path.known(|known| known.parent)).filter(|parent| *parent != Self::ROOT);
        std::iter::successors(parent(self), move |path| parent(*path))
    }

    /// The first steps of the path.
    pub fn up_to(self, depth: usize) -> Self {
        let mut all = std::iter::once(self).chain(self.parents());
        all.find(|path| path.depth() <= depth).unwrap_or(Self::ROOT)
    }

    /// True for the path itself and for what lies in it.
    pub fn is_in(self, other: Self) -> bool {
        self == other || self > other && self.parents().any(|parent| parent == other)
    }

    pub fn keys(self) -> Vec<Key> {
        let mut keys: Vec<Key> = std::iter::once(self)
            .chain(self.parents())
            .map(|path| path.known(|known| known.key.clone()))
            .collect();
        keys.reverse();
        keys
    }
}
