use super::*;
use crate::status::Protection;

fn append(payloads: &[&[u8]]) -> Vec<u8> {
    let mut builder = AppendBuilder::default();
    for (at, payload) in payloads.iter().enumerate() {
        let sequence = at as u64 + 1;
        builder.push(&AppendRecord { producer: 7, sequence, scn_floor: 9, payload });
    }
    builder.finish()
}

#[test]
fn an_append_reads_back() {
    let body = append(&[b"", b"a", b"12345678", &[3; 1000]]);
    let read = Append::parse(&body).unwrap();
    let lens: Vec<_> = read.records().map(|record| record.payload.len()).collect();
    assert_eq!((read.count(), lens), (4, vec![0, 1, 8, 1000]));
    assert_eq!(read.records().nth(1).unwrap().sequence, 2);
}

#[test]
fn an_answer_reads_back() {
    let acked = AppendedRecord {
        outcome: Outcome::Acked,
        level: Protection::Availability,
        lsn: 96,
        end_lsn: 128,
        scn: 5,
    };
    let records = [acked, AppendedRecord::placeless(Outcome::Unknown)];
    assert_eq!(parse_appended(&encode_appended(&records)).unwrap(), records);
    assert_eq!(parse_created(&encode_created(&[2, 3])).unwrap(), [2, 3]);
    assert_eq!(parse_create_streams(&encode_create_streams(5)), Ok(5));
    assert_eq!(parse_transfer(&encode_transfer(3)), Ok(3));
    assert!(parse_transfer(&encode_transfer(0)).is_err(), "no node has the number 0");
    assert_eq!(parse_transferred(&encode_transferred(3, 9)), Ok((3, 9)));
    let streams = [StreamEntry { id: 2, leader: 1, base_lsn: 0, committed_lsn: 800 }];
    assert_eq!(parse_streams(&encode_streams(&streams)).unwrap(), streams);
}

#[test]
fn every_refusal_reads_back() {
    for code in RefusedCode::ALL {
        let refused = Refused {
            code,
            expected: 12,
            leader: "127.0.0.1:7001".to_owned(),
            text: "é".to_owned(),
        };
        assert_eq!(Refused::parse(&refused.encode()), Ok(refused));
    }
    let long = Refused::new(RefusedCode::Busy, "é\n".repeat(400));
    assert!(Refused::parse(&long.encode()).unwrap().text.len() <= TEXT_BYTES_MAX);
}

#[test]
fn every_cut_and_every_tail_is_refused() {
    let body = append(&[b"abc", b"defghijkl"]);
    let answer = encode_appended(&[AppendedRecord::placeless(Outcome::Failed)]);
    let refused = Refused::new(RefusedCode::Busy, "wait").encode();
    let created = encode_created(&[1, 2]);
    let (transfer, moved) = (encode_transfer(2), encode_transferred(2, 7));
    for cut in 0..body.len() {
        assert!(Append::parse(&body[..cut]).is_err(), "append cut at {cut}");
    }
    let all = [("answer", &answer), ("refused", &refused), ("created", &created)];
    for (what, body) in all.into_iter().chain([("transfer", &transfer), ("moved", &moved)]) {
        let read = |body: &[u8]| match what {
            "answer" => parse_appended(body).map(|_| ()),
            "refused" => Refused::parse(body).map(|_| ()),
            "transfer" => parse_transfer(body).map(|_| ()),
            "moved" => parse_transferred(body).map(|_| ()),
            _ => parse_created(body).map(|_| ()),
        };
        (0..body.len()).for_each(|cut| assert!(read(&body[..cut]).is_err(), "{what} {cut}"));
        assert!(read(&[body.as_slice(), &[0]].concat()).is_err(), "{what} with a tail");
    }
    assert!(Append::parse(&[body.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn lengths_are_not_trusted() {
    let mut body = append(&[b"abc"]);
    body[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Append::parse(&body), Err(WireError::Bound { what: "payload", .. })));
    body[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Append::parse(&body), Err(WireError::Bound { what: "append", .. })));
    let mut answer = encode_appended(&[]);
    answer[..4].copy_from_slice(&4096u32.to_le_bytes());
    assert!(parse_appended(&answer).is_err());
}

#[test]
fn a_sequence_needs_a_producer() {
    let mut builder = AppendBuilder::default();
    builder.push(&AppendRecord { producer: 0, sequence: 1, scn_floor: 0, payload: b"x" });
    assert!(Append::parse(&builder.finish()).is_err());
}
