//! Versions that can be compared.

/// Major, minor and patch. A suffix after `-` or `+` is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Incompatible changes.
    pub major: u32,
    /// Features.
    pub minor: u32,
    /// Corrections.
    pub patch: u32,
}

impl Version {
    /// Reads `v1.36.3`, `1.36` or `v1.32.4-dispatcher`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('v');
        let numbers = text.split(['-', '+', ' ']).next()?;
        let mut numbers = numbers.split('.').map(|number| number.parse().ok());
        let version = Self {
            major: numbers.next()??,
            minor: numbers.next()??,
            patch: numbers.next().unwrap_or(Some(0))?,
        };
        numbers.next().is_none().then_some(version)
    }

    /// The first version in a program's output.
    pub fn find(text: &str) -> Option<Self> {
        text.split([' ', '\n', '\t', '"', ',', ':']).filter(|word| word.contains('.')).find_map(Self::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let version = |text| Version::parse(text).unwrap();
        assert_eq!(version("v1.36.3"), Version { major: 1, minor: 36, patch: 3 });
        assert_eq!(version("1.32.4-dispatcher"), version("v1.32.4"));
        assert_eq!(version("v4.2.4+gabc"), version("4.2.4"));
        assert!(version("v1.9.0") < version("v1.10"));
        for bad in ["", "v", "1", "1.x", "a.b.c", "1.2.3.4"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_version_is_found_in_what_a_program_says() {
        assert_eq!(Version::find("kind v0.33.0 go1.26.8 linux/amd64"), Version::parse("0.33"));
        assert_eq!(Version::find("{\"gitVersion\": \"v1.32.4-dispatcher\"}"), Version::parse("1.32.4"));
        assert_eq!(Version::find("nothing here."), None);
    }
}
