//! From text to a syntax tree.

use cel::IdedExpr;

use super::lower::CompileError;
use super::{EXPRESSION_BYTES_MAX, NESTING_MAX};

/// The parser recurses through a dozen rules for each level of nesting.
const STACK_BYTES: usize = 64 << 20;
/// A chain of operators is a tree as deep as it is long, whether brackets nest or not.
const OPERATORS_MAX: usize = 5_000;

/// Parses with the grammar's own macros left as calls, and works on the tree. All of it on a stack of its own: the text is a
/// stranger's, and even forgetting a deep tree takes a deep stack.
pub(super) fn parsed<T: Send>(
    text: &str,
    work: impl FnOnce(&IdedExpr) -> Result<T, CompileError> + Send,
) -> Result<T, CompileError> {
    if text.trim().is_empty() {
        return Err(CompileError::new(
            "compilation failed: ERROR: <input>:1:1: Syntax error: mismatched input '<EOF>'",
        ));
    }
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(CompileError::new(format!(
            "compilation failed: expression is too long: it may be {EXPRESSION_BYTES_MAX} bytes at most"
        )));
    }
    let operators = text.bytes().filter(|byte| b"+-*/%.<>=!&|?:([{,".contains(byte)).count();
    if operators > OPERATORS_MAX || nests_too_deep(text) {
        return Err(CompileError::new(format!(
            "compilation failed: expression recursion limit exceeded: {NESTING_MAX}"
        )));
    }
    let done = with_stack(STACK_BYTES, || {
        let parser = cel::Env::default().with_optional_support(true).parser();
        let parser = parser.max_recursion_depth(NESTING_MAX).enable_ident_escape_syntax(true);
        let tree = parser.parse(text).map_err(|errors| CompileError::new(format!("compilation failed: {errors}")))?;
        work(&tree)
    });
    done.unwrap_or_else(|| Err(CompileError::new("compilation failed: the expression cannot be parsed")))
}

/// Brackets and signs nest; whatever the parser thinks of them, more than this is refused before it is asked.
fn nests_too_deep(text: &str) -> bool {
    let (mut depth, mut deepest, mut row) = (0usize, 0usize, 0usize);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        row = if matches!(byte, b'!' | b'-') { row + 1 } else { 0 };
        deepest = deepest.max(depth + row);
    }
    deepest > usize::from(NESTING_MAX)
}

/// Runs something on a stack of this size; none if no thread could be had or it panicked.
pub(super) fn with_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("cel".to_owned()).stack_size(bytes).spawn_scoped(scope, work);
        thread.ok().and_then(|thread| thread.join().ok())
    })
}
