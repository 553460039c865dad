//! One walk over an object: types, unknown fields, nulls, canonical forms and defaults.
