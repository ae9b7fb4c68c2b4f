//! Compares this parser with the reference parser, socket.io-parser 4.2.7 from npm: recorded results of the reference,
//! and the cases where this parser differs on purpose.

use super::*;
use serde_json::Value;

/// Type, attachments, namespace, id and data of a packet.
type Fields = (u8, u32, &'static str, Option<u64>, Option<&'static str>);

fn check(text: &str, expected: Fields) {
    let packet = Packet::parse(text).unwrap_or_else(|malformed| panic!("{text}: {malformed}"));
    let (kind, attachments, namespace, id, data) = expected;
    assert_eq!(packet.kind, Kind::ALL[usize::from(kind)], "{text}");
    assert_eq!((packet.attachments, packet.namespace, packet.id), (attachments, namespace, id), "{text}");
    let value = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_else(|_| panic!("{json}"));
    assert_eq!(packet.data.map(value), data.map(value), "{text}");
}

#[test]
fn packets_are_parsed_like_the_reference_does() {
    for (text, expected) in ACCEPTED {
        check(text, *expected);
    }
}

#[test]
fn packets_that_the_reference_refuses_are_refused() {
    for text in REFUSED {
        assert!(Packet::parse(text).is_err(), "{text}");
    }
}

#[test]
fn packets_that_no_encoder_writes_are_refused() {
    for (text, malformed) in STRICTER {
        assert_eq!(Packet::parse(text).expect_err(text), *malformed, "{text:?}");
    }
}

#[test]
fn packets_that_only_this_parser_accepts_are_parsed() {
    for (text, expected) in LOOSER {
        check(text, *expected);
    }
}

const ACCEPTED: &[(&str, Fields)] = &[
    ("0", (0, 0, "/", None, None)),
    ("0{}", (0, 0, "/", None, Some("{}"))),
    (r#"0{"token":"123"}"#, (0, 0, "/", None, Some(r#"{"token":"123"}"#))),
    ("0/admin,", (0, 0, "/admin", None, None)),
    ("0/admin", (0, 0, "/admin", None, None)),
    (r#"0/admin,{"token":"123"}"#, (0, 0, "/admin", None, Some(r#"{"token":"123"}"#))),
    ("0/", (0, 0, "/", None, None)),
    ("0/,", (0, 0, "/", None, None)),
    (r#"0/,{"a":1}"#, (0, 0, "/", None, Some(r#"{"a":1}"#))),
    ("00{}", (0, 0, "/", Some(0), Some("{}"))),
    ("012", (0, 0, "/", Some(12), None)),
    (r#"0/a/b-c_d.e,{"x":[1,{"y":null}]}"#, (0, 0, "/a/b-c_d.e", None, Some(r#"{"x":[1,{"y":null}]}"#))),
    (r#"0/admin{"a":1}"#, (0, 0, r#"/admin{"a":1}"#, None, None)),
    ("0/émoji😀,{}", (0, 0, "/émoji😀", None, Some("{}"))),
    ("1", (1, 0, "/", None, None)),
    ("1/admin,", (1, 0, "/admin", None, None)),
    ("1/admin", (1, 0, "/admin", None, None)),
    ("15", (1, 0, "/", Some(5), None)),
    (r#"2["foo"]"#, (2, 0, "/", None, Some(r#"["foo"]"#))),
    (r#"2/admin,["bar"]"#, (2, 0, "/admin", None, Some(r#"["bar"]"#))),
    (r#"212["foo"]"#, (2, 0, "/", Some(12), Some(r#"["foo"]"#))),
    (r#"2/admin,13["bar"]"#, (2, 0, "/admin", Some(13), Some(r#"["bar"]"#))),
    (r#"2/,["a"]"#, (2, 0, "/", None, Some(r#"["a"]"#))),
    (r#"2[""]"#, (2, 0, "/", None, Some(r#"[""]"#))),
    ("2[1]", (2, 0, "/", None, Some("[1]"))),
    (r#"2[-1.5,"x"]"#, (2, 0, "/", None, Some(r#"[-1.5,"x"]"#))),
    ("2[0]", (2, 0, "/", None, Some("[0]"))),
    (
        r#"2["a",null,true,false,1.5,{"b":[]}]"#,
        (2, 0, "/", None, Some(r#"["a",null,true,false,1.5,{"b":[]}]"#)),
    ),
    (r#"2["\u0063onnec","x"]"#, (2, 0, "/", None, Some(r#"["connec","x"]"#))),
    (
        r#"2["a",{"_placeholder":true,"num":0}]"#,
        (2, 0, "/", None, Some(r#"["a",{"_placeholder":true,"num":0}]"#)),
    ),
    (r#"20["a"]"#, (2, 0, "/", Some(0), Some(r#"["a"]"#))),
    (r#"2["a","\ud83d\ude00\n\u001e"]"#, (2, 0, "/", None, Some(r#"["a","😀\n\u001e"]"#))),
    (r#"2["é","日本"]"#, (2, 0, "/", None, Some(r#"["é","日本"]"#))),
    (r#"29007199254740991["a"]"#, (2, 0, "/", Some(9007199254740991), Some(r#"["a"]"#))),
    (r#"2["connecting"]"#, (2, 0, "/", None, Some(r#"["connecting"]"#))),
    (r#"2["Connect"]"#, (2, 0, "/", None, Some(r#"["Connect"]"#))),
    (r#"2["disconnected"]"#, (2, 0, "/", None, Some(r#"["disconnected"]"#))),
    (r#"2["error"]"#, (2, 0, "/", None, Some(r#"["error"]"#))),
    (r#"2["a"] "#, (2, 0, "/", None, Some(r#"["a"]"#))),
    ("2[\"a\"]\u{a}", (2, 0, "/", None, Some(r#"["a"]"#))),
    ("2[\"a\"]\u{d}\u{a}\u{9} ", (2, 0, "/", None, Some(r#"["a"]"#))),
    (r#"2/n,7["a"] "#, (2, 0, "/n", Some(7), Some(r#"["a"]"#))),
    (r#"2[ "a" , 1 ]"#, (2, 0, "/", None, Some(r#"["a",1]"#))),
    (r#"2["__proto__"]"#, (2, 0, "/", None, Some(r#"["__proto__"]"#))),
    ("312[]", (3, 0, "/", Some(12), Some("[]"))),
    (r#"3/admin,13["bar"]"#, (3, 0, "/admin", Some(13), Some(r#"["bar"]"#))),
    ("30[null]", (3, 0, "/", Some(0), Some("[null]"))),
    (r#"35["connect"]"#, (3, 0, "/", Some(5), Some(r#"["connect"]"#))),
    (r#"35[{"a":1}]"#, (3, 0, "/", Some(5), Some(r#"[{"a":1}]"#))),
    ("35[[]]", (3, 0, "/", Some(5), Some("[[]]"))),
    ("35[] ", (3, 0, "/", Some(5), Some("[]"))),
    (r#"4{"message":"Not authorized"}"#, (4, 0, "/", None, Some(r#"{"message":"Not authorized"}"#))),
    (r#"4"no""#, (4, 0, "/", None, Some(r#""no""#))),
    (
        r#"4/admin,{"message":"Invalid namespace","data":{"code":1}}"#,
        (4, 0, "/admin", None, Some(r#"{"message":"Invalid namespace","data":{"code":1}}"#)),
    ),
    (r#"4"""#, (4, 0, "/", None, Some(r#""""#))),
    ("4{}", (4, 0, "/", None, Some("{}"))),
    (
        r#"51-["baz",{"_placeholder":true,"num":0}]"#,
        (5, 1, "/", None, Some(r#"["baz",{"_placeholder":true,"num":0}]"#)),
    ),
    (
        r#"52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
        (
            5,
            2,
            "/admin",
            None,
            Some(r#"["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#),
        ),
    ),
    (r#"51-12["a"]"#, (5, 1, "/", Some(12), Some(r#"["a"]"#))),
    (r#"510-["a"]"#, (5, 10, "/", None, Some(r#"["a"]"#))),
    (
        r#"51-/admin,9["a",{"_placeholder":true,"num":0}]"#,
        (5, 1, "/admin", Some(9), Some(r#"["a",{"_placeholder":true,"num":0}]"#)),
    ),
    (r#"51-["a"]"#, (5, 1, "/", None, Some(r#"["a"]"#))),
    (
        r#"61-15["bar",{"_placeholder":true,"num":0}]"#,
        (6, 1, "/", Some(15), Some(r#"["bar",{"_placeholder":true,"num":0}]"#)),
    ),
    (
        r#"61-/admin,1[{"_placeholder":true,"num":0}]"#,
        (6, 1, "/admin", Some(1), Some(r#"[{"_placeholder":true,"num":0}]"#)),
    ),
    ("61-3[]", (6, 1, "/", Some(3), Some("[]"))),
];

const REFUSED: &[&str] = &[
    "0null",
    "0[]",
    r#"0"a""#,
    "01.5",
    "0true",
    "0{",
    "0{}x",
    r#"0{"a":undefined}"#,
    "0{'a':1}",
    "0/admin,,{}",
    "1{}",
    "1null",
    r#"1"""#,
    "1/admin,{}",
    "1[]",
    "2[]",
    "2{}",
    "2null",
    "2true",
    r#"2"a""#,
    "2[null]",
    "2[true]",
    "2[{}]",
    r#"2[["a"]]"#,
    r#"2["connect"]"#,
    r#"2["connect_error"]"#,
    r#"2["disconnect"]"#,
    r#"2["disconnecting"]"#,
    r#"2["newListener"]"#,
    r#"2["removeListener"]"#,
    r#"2["\u0063onnect"]"#,
    r#"2["connect","x"]"#,
    r#"2/n,5["disconnect"]"#,
    r#"2["a""#,
    r#"2["a"]]"#,
    r#"2["a",]"#,
    r#"2[,"a"]"#,
    r#"2["a"]["b"]"#,
    r#"2["a" "b"]"#,
    "2['a']",
    "2[\"a\u{a}\"]",
    "2[\"a\u{1}\"]",
    r#"2["\x"]"#,
    r#"2["\u00g0"]"#,
    r#"2["\ud83"]"#,
    r#"2["a",01]"#,
    r#"2["a",.5]"#,
    r#"2["a",1.]"#,
    r#"2["a",1e]"#,
    r#"2["a",+1]"#,
    r#"2["a",NaN]"#,
    r#"2["a",0x1]"#,
    r#"2["a",tru]"#,
    r#"2abc["a"]"#,
    r#"2-1["a"]"#,
    r#"21.5["a"]"#,
    r#"21e3["a"]"#,
    "2[\"a\"] ",
    r#"2["a"]x"#,
    r#"21-["a"]"#,
    "2[\"a\",//\u{a}1]",
    "35{}",
    "35null",
    r#"35"a""#,
    "35[",
    "35abc",
    "4[]",
    "4null",
    r#"4"a"#,
    r#"4{"a"}"#,
    r#"5["a"]"#,
    r#"5-["a"]"#,
    r#"51["a"]"#,
    r#"5a-["a"]"#,
    r#"5-1-["a"]"#,
    r#"51.5-["a"]"#,
    r#"51a-["a"]"#,
    "51-[]",
    "51-{}",
    r#"51-["connect"]"#,
    "51",
    r#"5/admin,1-["a"]"#,
    r#"51--["a"]"#,
    r#"5Infinity-["a"]"#,
    r#"5NaN-["a"]"#,
    "512",
    "61-3{}",
    "63[]",
    "6-3[]",
    "7",
    r#"8["a"]"#,
    "9",
    "a",
    "abc",
    "-",
    "/",
    r#"""#,
    "[",
    "{",
    "-1",
    r#"+2["a"]"#,
    r#"٢["a"]"#,
    "é",
    "😀",
    "\u{0}",
    "\u{1e}",
];

const STRICTER: &[(&str, Malformed)] = &[
    ("", Malformed::Type),
    ("2\u{feff}[\"a\"]", Malformed::Data(Kind::Event)),
    (r#"2/*c*/["a"]"#, Malformed::Data(Kind::Event)),
    ("41", Malformed::Data(Kind::ConnectError)),
    ("2", Malformed::Data(Kind::Event)),
    ("2/admin,", Malformed::Data(Kind::Event)),
    ("212", Malformed::Data(Kind::Event)),
    (r#"2/admin["a"]"#, Malformed::Data(Kind::Event)),
    ("3[]", Malformed::AckWithoutId(Kind::Ack)),
    (r#"3/admin,["bar"]"#, Malformed::AckWithoutId(Kind::Ack)),
    ("61-[]", Malformed::AckWithoutId(Kind::BinaryAck)),
    ("312", Malformed::Data(Kind::Ack)),
    ("3", Malformed::AckWithoutId(Kind::Ack)),
    ("4", Malformed::Data(Kind::ConnectError)),
    ("4/admin,", Malformed::Data(Kind::ConnectError)),
    ("51-", Malformed::Data(Kind::BinaryEvent)),
    ("61-3", Malformed::Data(Kind::BinaryAck)),
    (r#"2 ["a"]"#, Malformed::Data(Kind::Event)),
    ("2\u{a}[\"a\"]", Malformed::Data(Kind::Event)),
    ("2 [\"a\"]", Malformed::Data(Kind::Event)),
    ("0 {}", Malformed::Data(Kind::Connect)),
    (r#"21 2["a"]"#, Malformed::Data(Kind::Event)),
    (r#"2007["a"]"#, Malformed::Id),
    (r#"200["a"]"#, Malformed::Id),
    ("300[]", Malformed::Id),
    (r#"218446744073709551616["a"]"#, Malformed::Id),
    (r#"299999999999999999999999999["a"]"#, Malformed::Id),
    (r#"51.0-["a"]"#, Malformed::Attachments),
    (r#"51e0-["a"]"#, Malformed::Attachments),
    (r#"50x1-["a"]"#, Malformed::Attachments),
    (r#"5+1-["a"]"#, Malformed::Attachments),
    (r#"5 1-["a"]"#, Malformed::Attachments),
    (r#"501-["a"]"#, Malformed::Attachments),
    (" ", Malformed::Type),
    (" {}", Malformed::Type),
    ("0/a\u{1e}b,{}", Malformed::Namespace),
    ("0/a\u{a},{}", Malformed::Namespace),
    ("0/\u{0}", Malformed::Namespace),
    ("0/a\u{85},", Malformed::Namespace),
    (r#"2["\ud800"]"#, Malformed::EventName),
    (r#"2["\ud800connect"]"#, Malformed::EventName),
    (r#"2["a",[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"#, Malformed::Depth),
];

/// The reference reads these packets differently. It refuses binary packets with no attachments or with more than 10.
/// It keeps a query in the namespace. It rounds ids to what a JavaScript number can hold. It reads a line end at the
/// place of the data as id 0.
const LOOSER: &[(&str, Fields)] = &[
    (r#"50-["a"]"#, (5, 0, "/", None, Some(r#"["a"]"#))),
    ("60-3[]", (6, 0, "/", Some(3), Some("[]"))),
    (r#"516-["a"]"#, (5, 16, "/", None, Some(r#"["a"]"#))),
    (r#"54294967295-["a"]"#, (5, u32::MAX, "/", None, Some(r#"["a"]"#))),
    ("0\n", (0, 0, "/", None, None)),
    ("1/admin,\r\n", (1, 0, "/admin", None, None)),
    (r#"0/admin?x=1,{"a":1}"#, (0, 0, "/admin", None, Some(r#"{"a":1}"#))),
    ("0/admin?x=1", (0, 0, "/admin", None, None)),
    (r#"2/?t=a,["a"]"#, (2, 0, "/", None, Some(r#"["a"]"#))),
    (r#"2/a?b?c,3["a"]"#, (2, 0, "/a", Some(3), Some(r#"["a"]"#))),
    (r#"218446744073709551615["a"]"#, (2, 0, "/", Some(u64::MAX), Some(r#"["a"]"#))),
    (r#"29007199254740993["a"]"#, (2, 0, "/", Some(9007199254740993), Some(r#"["a"]"#))),
];
