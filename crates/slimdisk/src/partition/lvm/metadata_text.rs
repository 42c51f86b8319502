//! The text that describes a volume group, as far as lvm2 itself writes it.
//!
//! ```text
//! vg0 {                          a section
//!     id = "9h6zE1-..."          text
//!     seqno = 8                  a number
//!     status = ["READ", "WRITE"] a list of texts and numbers
//!     physical_volumes { pv0 { ... } ... }
//! }
//! # a comment
//! contents = "Text Format Volume Group"
//! ```
//!
//! Source: lvm.conf(5), "Syntax". Stricter than lvm2: no key twice, no negative
//! or broken numbers, no lists in lists.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// How deep sections are read: lvm2 writes four.
const DEPTH: usize = 8;

/// How many values are read: a volume group of several thousand segments.
const VALUES: usize = 1 << 18;

/// A value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

/// Keys and their values.
pub(super) type Section = BTreeMap<String, Value>;

/// A text, taken apart.
#[derive(Debug)]
pub(super) struct Document {
    /// The name of the only section: that of the volume group.
    pub name: String,
    pub group: Section,
    /// Where that section ends. What follows tells when and by whom the text was
    /// written.
    pub group_end: usize,
    /// How many values there are.
    pub values: usize,
}

pub(super) fn parse(text: &[u8]) -> Result<Document> {
    // lvm2 counts the zero byte at the end as part of the text.
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let mut parser = Parser { text, at: 0, values: 0 };
    let mut group = None;
    let mut others = Section::new();
    loop {
        parser.skip_blank();
        if parser.at == text.len() {
            break;
        }
        let (key, value) = parser.entry(0)?;
        match value {
            Value::Section(section) if group.is_none() => {
                group = Some((key, section, parser.at));
            }
            Value::Section(_) => return Err(parser.broken("a second section")),
            other => {
                if others.insert(key, other).is_some() {
                    return Err(parser.broken("a key that comes twice"));
                }
            }
        }
    }
    let format = (others.get("contents"), others.get("version"));
    match format {
        (Some(Value::Text(contents)), Some(Value::Number(1)))
            if contents == "Text Format Volume Group" => {}
        _ => return Err(Error::invalid("its metadata is of an unknown format")),
    }
    let Some((name, group, group_end)) = group else {
        return Err(Error::invalid("its metadata names no volume group"));
    };
    Ok(Document { name, group, group_end, values: parser.values })
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    values: usize,
}

impl Parser<'_> {
    fn broken(&self, what: &str) -> Error {
        Error::invalid(format!("its metadata has {what} at character {}", self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &str {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        let taken = self.text.get(start..self.at).unwrap_or_default();
        // Only ever ASCII.
        str::from_utf8(taken).unwrap_or_default()
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                _ => break,
            }
        }
    }

    /// `key = value` or `key { ... }`.
    fn entry(&mut self, depth: usize) -> Result<(String, Value)> {
        let key = self
            .take_while(|b| b.is_ascii_alphanumeric() || b"_+.-".contains(&b))
            .to_owned();
        if key.is_empty() {
            return Err(self.broken("no key where one is due"));
        }
        self.skip_blank();
        let value = if self.take(b'{') {
            Value::Section(self.section(depth + 1)?)
        } else if self.take(b'=') {
            self.skip_blank();
            if self.take(b'[') { Value::List(self.list()?) } else { self.scalar()? }
        } else {
            return Err(self.broken("a key without a value"));
        };
        self.count()?;
        Ok((key, value))
    }

    /// What follows an opening brace, with the closing one.
    fn section(&mut self, depth: usize) -> Result<Section> {
        if depth > DEPTH {
            return Err(self.broken("too many sections in one another"));
        }
        let mut section = Section::new();
        loop {
            self.skip_blank();
            if self.take(b'}') {
                return Ok(section);
            }
            let (key, value) = self.entry(depth)?;
            if section.insert(key, value).is_some() {
                return Err(self.broken("a key that comes twice"));
            }
        }
    }

    /// What follows an opening bracket, with the closing one.
    fn list(&mut self) -> Result<Vec<Value>> {
        let mut list = Vec::new();
        loop {
            self.skip_blank();
            if self.take(b']') {
                return Ok(list);
            }
            list.push(self.scalar()?);
            self.count()?;
            self.skip_blank();
            if !self.take(b',') && self.peek() != Some(b']') {
                return Err(self.broken("a list without an end"));
            }
        }
    }

    fn scalar(&mut self) -> Result<Value> {
        if self.take(b'"') {
            return self.text().map(Value::Text);
        }
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        let number = digits.parse();
        // A broken number goes on after the digits, which then are no end.
        let ended = self.peek().is_none_or(|b| b" \t\r\n#,]}".contains(&b));
        match number {
            Ok(number) if ended => Ok(Value::Number(number)),
            _ => Err(self.broken("a value that is none")),
        }
    }

    /// What follows a quotation mark, with the closing one.
    fn text(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(byte @ (b'"' | b'\\')) => bytes.push(byte),
                        _ => return Err(self.broken("an unknown escape")),
                    }
                }
                Some(byte) if byte != 0 => bytes.push(byte),
                _ => return Err(self.broken("a text without an end")),
            }
            self.at += 1;
        }
        self.at += 1;
        String::from_utf8(bytes).map_err(|_| self.broken("a text that is not UTF-8"))
    }

    fn count(&mut self) -> Result<()> {
        self.values += 1;
        if self.values > VALUES {
            return Err(self.broken("more values than are read"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "\ncontents = \"Text Format Volume Group\"\nversion = 1\n";

    fn parsed(group: &str) -> Result<Document> {
        parse(format!("{group}{TAIL}\0").as_bytes())
    }

    fn fault(group: &str) -> String {
        parsed(group).unwrap_err().to_string()
    }

    #[test]
    fn what_lvm2_writes_is_read() {
        let text = r#"vg-0.x+y {
id = "a\"b\\c"	# a comment, with "quotes" { and [
seqno=18446744073709551615
status = ["READ", "WRITE",]
none = [ ]
deep { er { x = 0 } }
}"#;
        let found = parsed(text).unwrap();
        assert_eq!((found.name.as_str(), found.group_end), ("vg-0.x+y", text.len()));
        let read = |key: &str| &found.group[key];
        assert_eq!(*read("id"), Value::Text("a\"b\\c".into()));
        assert_eq!(*read("seqno"), Value::Number(u64::MAX));
        let texts = ["READ", "WRITE"].map(|text| Value::Text(text.into()));
        assert_eq!(*read("status"), Value::List(texts.to_vec()));
        assert_eq!(*read("none"), Value::List(vec![]));
        let Value::Section(deep) = read("deep") else { panic!() };
        let er = Section::from([("x".into(), Value::Number(0))]);
        assert_eq!(deep["er"], Value::Section(er));
        assert_eq!(found.values, 12);
    }

    #[test]
    fn what_lvm2_does_not_write_is_refused() {
        for (text, expected) in [
            ("vg {", "no key where one is due"),
            ("vg", "a key without a value"),
            ("vg { a }", "a key without a value"),
            ("vg { a = }", "a value that is none"),
            ("vg { a = -1 }", "a value that is none"),
            ("vg { a = 1.5 }", "a value that is none"),
            ("vg { a = 0x10 }", "a value that is none"),
            ("vg { a = 18446744073709551616 }", "a value that is none"),
            ("vg { a = 1 a = 1 }", "a key that comes twice"),
            ("vg { a = [1 2] }", "a list without an end"),
            ("vg { a = [[1]] }", "a value that is none"),
            ("vg { a = [1", "a list without an end"),
            ("vg { a = \"\\n\" }", "an unknown escape"),
            ("vg { } vg2 { }", "a second section"),
            ("x = 1 x = 1 vg { }", "a key that comes twice"),
            ("vg { } }", "no key where one is due"),
            ("x = 1", "names no volume group"),
            ("a{a{a{a{a{a{a{a{a{a=1}}}}}}}}}", "too many sections"),
        ] {
            let found = fault(text);
            assert!(found.contains(expected), "{text}: {found}");
        }
        let open = parse(b"vg { a = \"b");
        assert!(open.unwrap_err().to_string().contains("a text without an end"));
        let unknown =
            parse(b"vg { }\ncontents = \"Text Format Volume Group\" version = 2");
        assert!(unknown.unwrap_err().to_string().contains("unknown format"));
        let bytes = [b"vg { a = \"", &[0xFF][..], b"\" }", TAIL.as_bytes()].concat();
        assert!(parse(&bytes).unwrap_err().to_string().contains("not UTF-8"));
        let many = format!("vg {{ a = [{}] }}", "1,".repeat(VALUES));
        assert!(fault(&many).contains("more values than are read"));
        let deep = "a{".repeat(1 << 20);
        assert!(fault(&deep).contains("too many sections"));
    }
}
