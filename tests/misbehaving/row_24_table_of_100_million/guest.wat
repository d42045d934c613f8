;; Asks for a table of a hundred million places.
(table $t 1 funcref)
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (drop (table.grow $t (ref.null func) (i32.const 100000000)))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
