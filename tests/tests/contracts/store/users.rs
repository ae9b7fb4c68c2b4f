//! The contract of the store of users: rows are replaced as a whole, and the later one wins.

use super::{Place, permutations, unique, user};
use carillon_presence_worker::store::{UserRow, UserStore};

pub fn row(name: &str, updated_ms: u64) -> UserRow {
    UserRow {
        user: user(name),
        name: format!("{name} of {updated_ms}"),
        email: format!("{name}@example.org"),
        role: "member".into(),
        picture: format!("https://example.org/{updated_ms}.png"),
        last_seen_ms: 1_700_000_000_000 + updated_ms,
        updated_ms,
    }
}

async fn one(store: &dyn UserStore, name: &str) -> Option<UserRow> {
    let mut rows = store.get(&[user(name)]).await.expect("read");
    assert!(rows.len() <= 1);
    rows.pop()
}

pub async fn rows_are_read_back_whole(place: Place) {
    let (store, ann, bob) = (place.open_users().await, unique("ann"), unique("auth0|b+b@x.org"));
    assert_eq!(store.get(&[user(&ann), user(&bob)]).await.expect("read"), []);
    let empty = UserRow {
        email: String::new(),
        role: String::new(),
        picture: String::new(),
        last_seen_ms: 0,
        ..row(&bob, 2)
    };
    store.put(vec![row(&ann, 1), empty.clone()]).await.expect("written");
    assert_eq!(one(&*store, &ann).await, Some(row(&ann, 1)));
    assert_eq!(one(&*store, &bob).await, Some(empty));
    assert_eq!(store.get(&[]).await.expect("read"), []);
    store.put(Vec::new()).await.expect("nothing to do");
    assert!(store.healthy().await);
}

pub async fn the_later_row_wins_in_every_order_of_writes(place: Place) {
    let store = place.open_users().await;
    for order in permutations(&[10, 20, 30]) {
        let ann = unique("ann");
        for updated_ms in &order {
            store.put(vec![row(&ann, *updated_ms)]).await.expect("written");
        }
        assert_eq!(one(&*store, &ann).await, Some(row(&ann, 30)), "{order:?}");
    }
}

/// The write timestamp contains a hash of the row, so rows of the same millisecond get different timestamps. With equal
/// ones a CQL database decides for each cell apart, and mixes rows.
pub async fn of_rows_with_equal_times_one_wins_as_a_whole(place: Place) {
    let store = place.open_users().await;
    let (ann, mut winners) = (unique("ann"), Vec::new());
    for (number, order) in permutations(&["x", "y", "z"]).into_iter().enumerate() {
        // The same rows in every order, each time under another id: the same row must win.
        let id = format!("{ann}-{number}");
        for name in order {
            let row = UserRow { name: name.into(), picture: name.into(), ..row(&id, 10) };
            store.put(vec![UserRow { email: name.into(), ..row }]).await.expect("written");
        }
        let winner = one(&*store, &id).await.expect("a row");
        assert_eq!(
            (&winner.name, &winner.name),
            (&winner.picture, &winner.email),
            "the row mixes cells of two writes"
        );
        winners.push(winner.name);
    }
    assert!(winners.iter().all(|winner| *winner == winners[0]), "{winners:?}");
}

pub async fn many_users_are_written_and_read_in_one_call(place: Place) {
    let (store, base) = (place.open_users().await, unique("user"));
    let names: Vec<_> = (0..300).map(|number| format!("{base}-{number}")).collect();
    store.put(names.iter().map(|name| row(name, 1)).collect()).await.expect("written");
    let asked: Vec<_> = names.iter().map(|name| user(name)).chain([user(&unique("nobody"))]).collect();
    let mut found = store.get(&asked).await.expect("read");
    found.sort_by(|a, b| a.user.cmp(&b.user));
    let mut expected: Vec<_> = names.iter().map(|name| row(name, 1)).collect();
    expected.sort_by(|a, b| a.user.cmp(&b.user));
    assert_eq!(found, expected);
}

pub async fn reopening_keeps_users(place: Place) {
    let ann = unique("ann");
    let store = place.open_users().await;
    store.put(vec![row(&ann, 3)]).await.expect("written");
    drop(store);
    assert_eq!(one(&*place.open_users().await, &ann).await, Some(row(&ann, 3)));
}
