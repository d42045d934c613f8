;; Answers for a row that it was not given.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $answer (i32.add (local.get $count) (i32.const 1)) (i32.const 0) (global.get $values) (i32.const 2)))
