//! Order, prefix, short writes, errors, space, the closing block.
