//! Join by condition: a row of `shift_sale` for every pair that fits. It would come and go with two source rows, and a
//! row has one owner: rules such as those of `refused.json` are refused with `TWO_OWNERS`, so none is part of the step.
//!
//! Instead: let release 2 keep both tables and read the pairs through a view, or keep the pair itself as a row that one
//! side's application writes.
