;; Calls an empty place of a table.
(table 4 funcref)
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call_indirect (result i32) (i32.const 2)))
