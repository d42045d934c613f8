;; Leaves the key as it is, in a row that is not there yet.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (i32.store8 (global.get $values) (i32.const 0))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
