;; Divides by zero.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (i32.div_u (i32.const 1) (i32.const 0)))
