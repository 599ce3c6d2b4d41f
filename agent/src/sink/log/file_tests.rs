//! Whatever happens to the files: whole lines, each once.

use super::*;

type Tested = anyhow::Result<()>;

fn numbered(numbers: std::ops::Range<u32>) -> Lines {
    let mut lines = Lines::default();
    for number in numbers {
        lines
            .text
            .extend(format!("{{\"n\":{number:03}}}\n").bytes());
        lines.ends.push(lines.text.len());
    }
    lines
}

/// Length of a line of [`numbered`].
const LINE: u64 = 10;

fn write(files: &mut Files, numbers: std::ops::Range<u32>) -> usize {
    files
        .write(&numbered(numbers))
        .err()
        .map_or(0, |lost| lost.lines)
}

/// The numbers in a file.
fn read(path: &Path) -> anyhow::Result<Vec<u32>> {
    let text = fs::read_to_string(path)?;
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let number = |line: &str| -> anyhow::Result<u32> {
        Ok(line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?)
    };
    text.lines().map(number).collect()
}

#[test]
fn no_file_is_larger_than_the_limit_and_the_oldest_goes() -> Tested {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("flows.json");
    let limits = Limits {
        size: 3 * LINE + 5,
        files: 2,
    };
    let mut files = Files::open(&path, limits)?;
    assert_eq!(write(&mut files, 0..8), 0);
    assert_eq!(read(&path)?, [6, 7]);
    assert_eq!(read(&files.numbered(1))?, [3, 4, 5]);
    assert_eq!(read(&files.numbered(2))?, [0, 1, 2]);
    // The next agent fills up the file of the last one first.
    let mut files = Files::open(&path, limits)?;
    assert_eq!(write(&mut files, 8..10), 0);
    assert_eq!(read(&path)?, [9]);
    assert_eq!(read(&files.numbered(1))?, [6, 7, 8]);
    assert_eq!(read(&files.numbered(2))?, [3, 4, 5]);
    assert!(!files.numbered(3).exists());
    // An agent that died amid rotating left a number free: nothing has to go.
    fs::rename(files.numbered(1), folder.path().join("elsewhere"))?;
    assert_eq!(write(&mut files, 10..13), 0);
    assert_eq!(read(&path)?, [12]);
    assert_eq!(read(&files.numbered(1))?, [9, 10, 11]);
    assert_eq!(read(&files.numbered(2))?, [3, 4, 5]);
    Ok(())
}

#[test]
fn with_none_to_keep_the_file_starts_anew() -> Tested {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("flows.json");
    let limits = Limits {
        size: 2 * LINE,
        files: 0,
    };
    let mut files = Files::open(&path, limits)?;
    assert_eq!(write(&mut files, 0..5), 0);
    assert_eq!(read(&path)?, [4]);
    assert_eq!(fs::read_dir(folder.path())?.count(), 1);
    Ok(())
}

#[test]
fn a_file_that_was_moved_or_removed_is_made_anew() -> Tested {
    let folder = tempfile::tempdir()?;
    let inner = folder.path().join("logs");
    fs::create_dir(&inner)?;
    let path = inner.join("flows.json");
    let limits = Limits {
        size: 1000,
        files: 1,
    };
    let mut files = Files::open(&path, limits)?;
    assert_eq!(write(&mut files, 0..2), 0);
    let moved = folder.path().join("moved");
    fs::rename(&path, &moved)?;
    assert_eq!(write(&mut files, 2..4), 0);
    assert_eq!((read(&moved)?, read(&path)?), (vec![0, 1], vec![2, 3]));
    fs::remove_dir_all(&inner)?;
    assert_eq!(write(&mut files, 4..6), 2);
    fs::create_dir(&inner)?;
    assert_eq!(write(&mut files, 6..8), 0);
    assert_eq!(read(&path)?, [6, 7]);
    Ok(())
}

#[test]
fn when_it_cannot_rotate_it_grows_on() -> Tested {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("flows.json");
    let limits = Limits {
        size: 2 * LINE,
        files: 1,
    };
    let mut files = Files::open(&path, limits)?;
    // No file can take the name of a folder.
    fs::create_dir_all(files.numbered(1))?;
    assert_eq!(write(&mut files, 0..5), 0);
    assert_eq!(read(&path)?, [0, 1, 2, 3, 4]);
    fs::remove_dir(files.numbered(1))?;
    assert_eq!(write(&mut files, 5..6), 0);
    assert_eq!(read(&path)?, [5]);
    Ok(())
}

#[test]
fn of_lines_that_ran_out_of_room_the_whole_ones_stay() -> Tested {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("flows.json");
    let mut file = open(&path)?;
    file.write_all(&numbered(0..1).text)?;
    let lines = numbered(1..4);
    // The disk took one line and a half.
    file.write_all(&lines.text[..15])?;
    assert_eq!(cut(&file, LINE, &lines.text)?, 1);
    assert_eq!(read(&path)?, [0, 1]);
    // It took nothing.
    assert_eq!(cut(&file, 2 * LINE, &lines.text)?, 0);
    assert_eq!(read(&path)?, [0, 1]);
    Ok(())
}
