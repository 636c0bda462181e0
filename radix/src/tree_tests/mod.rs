//! Tests of the tree as a whole, against plain models.

mod damage;
mod forest;
mod medium;
mod ownership;
mod verbs;
